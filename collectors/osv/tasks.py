"""Keeps the table ``osv`` in step with osv.dev, one collector for each ecosystem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from msgspec import Struct

from collectkit import CollectorSettings, Download, FetchError, Rejected, Run, collector, cron, fetch, meta_of
from collectors.osv.models import Osv
from collectors.osv.source import URL, Row, archive_url, index_url, read_index, read_rows, record_url

OVERLAP = timedelta(days=1)
RECONCILED_EACH = timedelta(days=7)
MANY = 200
"""More records than this are had sooner from the archive."""
LARGEST = 512 << 20
"""Bytes of an archive; that of npm, the largest, has about half of it."""


class OsvSettings(CollectorSettings, frozen=True, kw_only=True):
    """``OSV_COLLECTOR_ECOSYSTEMS`` names, separated by commas, the ecosystems that are mirrored."""

    url: str = URL
    ecosystems: tuple[str, ...] = ("crates.io", "Go", "PyPI")


settings = OsvSettings.load("OSV_COLLECTOR")


class Listed(Struct, frozen=True, kw_only=True):
    """What the index says.

    Attributes:
        changed: the records that may have changed since the cursor; none without one.
        newest: the next cursor; None if nothing is dated, or if there is no index.
        feeds: what its validators are in.
        unchanged: whether it is the one that is in.
    """

    changed: Sequence[str] = ()
    newest: datetime | None = None
    feeds: tuple[Download, ...] = ()
    unchanged: bool = False


@collector(
    periodic=cron("23 * * * *"),
    each=lambda: settings.ecosystems,
    data_models=[Osv],
    acl="public",
    enabled=settings.enabled,
    fresh_for=timedelta(hours=4),  # three checks may fail before readers are told
    cursor_keys=("modified", "reconciled"),
)
def osv_collector(run: Run) -> str:
    """OSV advisories: the archive at first and once a week, in between the records that the index calls modified.

    The cursor is the newest date of the index. Records dated a day before it or later are asked for again: many share
    one date, and some are dated late. Where the index dates nothing (Go's publishers write the year 1), no record can
    be seen to change, so the archive is asked for each time; most times it is the same. So it is where there is no
    index, where a listed record is missing, and where many have changed.
    """
    cursor, reconciled = _moment(run, "modified"), _moment(run, "reconciled")
    is_due = cursor is None or reconciled is None or run.started_at - reconciled >= RECONCILED_EACH
    listed = _ask_index(run, cursor, conditional=not is_due)
    if listed.unchanged:
        run.store(updated_until_dt=run.started_at, meta_attr=_meta(run, listed))
        return "unchanged"
    are_many = len(listed.changed) > MANY
    records, missing = ([], []) if are_many else _fetch_records(run, listed.changed)
    if missing:
        run.log.warning("listed but not there, so the archive is read: %s", ", ".join(missing))
    if is_due or listed.newest is None or are_many or missing:
        return _read_archive(run, listed, records)
    with run.checkpoint(updated_until_dt=run.started_at, meta_attr=_meta(run, listed)) as batch:
        return f"changes: {batch.upsert(Osv, _rows(run, records))}"


def _ask_index(run: Run, cursor: datetime | None, *, conditional: bool) -> Listed:
    url = index_url(settings.url, str(run.key))
    try:
        with fetch(run, url, accept="text/csv", conditional=conditional) as feed:
            if feed.unchanged:
                return Listed(newest=cursor, feeds=(feed,), unchanged=True)
            index = read_index(feed)
    except FetchError as error:
        if error.status != 404:
            raise
        return Listed()
    return Listed(changed=index.since(cursor - OVERLAP) if cursor else [], newest=index.newest, feeds=(feed,))


def _fetch_records(run: Run, ids: Sequence[str]) -> tuple[list[bytes], list[str]]:
    """Return the records, and the ids of those that are not there."""
    records, missing = [], []
    for number, each in enumerate(ids, 1):
        try:
            with fetch(run, record_url(settings.url, str(run.key), each)) as feed:
                records.append(feed.path.read_bytes())
        except FetchError as error:
            if error.status != 404:
                raise
            missing.append(each)
        run.progress(number, len(ids))
    return records, missing


def _read_archive(run: Run, listed: Listed, records: Sequence[bytes]) -> str:
    """Bring the ecosystem in line with its archive; the records win over it, which is made less often."""
    newer = list(_rows(run, records))
    ids = set(map(_id, newer))
    url = archive_url(settings.url, str(run.key))
    with fetch(run, url, accept="application/zip", max_bytes=LARGEST, timeout=timedelta(minutes=15)) as archive:
        meta = {**_meta(run, listed, archive), "reconciled": run.started_at.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr=meta) as batch:
            if archive.unchanged:
                return f"archive unchanged: {batch.upsert(Osv, newer)}"
            older = (row for row in _rows(run, archive.members(".json")) if _id(row) not in ids)
            return f"archive: {batch.replace(Osv, chain(older, newer), within={'ecosystem': run.key})}"


def _rows(run: Run, records: Iterable[bytes]) -> Iterator[Row | Rejected]:
    return read_rows(records, str(run.key), settings.ecosystems)


def _id(row: Row | Rejected) -> object:
    return row.id if isinstance(row, Row) else row.key or row.digest


def _moment(run: Run, name: str) -> datetime | None:
    stored = run.meta_attr.get(name)
    return datetime.fromisoformat(stored) if stored else None


def _meta(run: Run, listed: Listed, *archives: Download) -> dict[str, Any]:
    """Return the cursor, which is never in the future whatever a publisher writes, and what fetch keeps."""
    cursor = listed.newest and min(listed.newest, run.started_at).isoformat()
    return {"modified": cursor, **meta_of(*listed.feeds, *archives)}
