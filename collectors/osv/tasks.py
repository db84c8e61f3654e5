"""Keeps the table ``osv`` in step with osv.dev, one collector for each ecosystem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from msgspec import Struct

from collectkit import CollectorSettings, Download, FetchError, Rejected, Run, TooLarge, collector, cron, fetch, meta_of
from collectors.osv.models import Osv
from collectors.osv.source import URL, Row, archive_url, id_of, index_url, read_index, read_rows, record_url

File = tuple[str, bytes | Rejected]
"""A record by its id, or its name in an archive."""
OVERLAP = timedelta(days=1)
RECONCILED_EACH = timedelta(days=7)
MANY = 200
"""More records than this are had sooner from the archive."""
SHARE_OF_A_DAY = 0.02
"""Of all records, that an archive may lack, for it is made once a day or so."""
MAX_BYTES = 64 << 20
"""An index of more is none, nor is a record: npm's has some 10 MB."""
LARGEST = 512 << 20
"""Of an archive; that of npm, the largest, has about half of it."""


class OsvSettings(CollectorSettings, frozen=True, kw_only=True):
    """``OSV_COLLECTOR_ECOSYSTEMS`` names, separated by commas, the ecosystems that are mirrored."""

    url: str = URL
    ecosystems: tuple[str, ...] = ("crates.io", "Go", "PyPI")


settings = OsvSettings.load("OSV_COLLECTOR")


class Listed(Struct, frozen=True, kw_only=True):
    """What the index says.

    Attributes:
        ids: all records.
        changed: the records that may have changed since the cursor; none without one.
        newest: the next cursor; None if nothing is dated, or if there is no index. A date to come does not count.
        feeds: what its validators are in.
        unchanged: whether it is the one that is in.
    """

    ids: Sequence[str] = ()
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

    An index that ends before the cursor comes from a stale cache. It is passed over, and the watermark stays, until the
    archive is due: that the newest record was deleted looks the same.
    """
    cursor, reconciled = _moment(run, "modified"), _moment(run, "reconciled")
    is_due = cursor is None or reconciled is None or run.started_at - reconciled >= RECONCILED_EACH
    listed = _ask_index(run, cursor, conditional=not is_due)
    if listed.unchanged:
        run.store(updated_until_dt=run.started_at, meta_attr=_meta(listed))
        return "unchanged"
    if cursor is not None and listed.newest is not None and listed.newest < cursor and not is_due:
        run.log.warning("index of %s is older than the one of %s, passed over", listed.newest, cursor)
        return f"passed over: the index ends on {listed.newest.isoformat()}, before the one that is in"
    are_many = len(listed.changed) > MANY
    records, missing = ([], []) if are_many else _fetch_records(run, listed.changed)
    if missing:
        run.log.warning("listed but not there, so the archive is read: %s", ", ".join(missing))
    if is_due or listed.newest is None or are_many or missing:
        return _read_archive(run, listed, records, missing)
    with run.checkpoint(updated_until_dt=run.started_at, meta_attr=_meta(listed)) as batch:
        held = _held(run, Osv.id.in_(listed.changed))
        return f"changes: {batch.upsert(Osv, _rows(run, records, held))}"


def _ask_index(run: Run, cursor: datetime | None, *, conditional: bool) -> Listed:
    url = index_url(settings.url, str(run.key))
    try:
        with fetch(run, url, accept="text/csv", max_bytes=MAX_BYTES, conditional=conditional) as feed:
            if feed.unchanged:
                return Listed(newest=cursor, feeds=(feed,), unchanged=True)
            index = read_index(feed)
    except FetchError as error:
        if error.status != 404:
            raise
        return Listed()
    if index.poison:
        run.log.warning("lines of the index passed over: %d, first: %s", len(index.poison), index.poison[0])
    changed = index.since(cursor - OVERLAP) if cursor else []
    return Listed(ids=index.ids, changed=changed, newest=index.newest(run.started_at), feeds=(feed,))


def _fetch_records(run: Run, ids: Sequence[str]) -> tuple[list[File], list[str]]:
    """Return the records, and the ids of those that are not there; one that is too large is rejected."""
    records: list[File] = []
    missing: list[str] = []
    for number, each in enumerate(ids, 1):
        try:
            with fetch(run, record_url(settings.url, str(run.key), each), max_bytes=MAX_BYTES) as feed:
                records.append((each, feed.path.read_bytes()))
        except TooLarge as error:
            records.append((each, Rejected(each.encode(), error.reason)))
        except FetchError as error:
            if error.status != 404:
                raise
            missing.append(each)
        run.progress(number, len(ids))
    return records, missing


def _read_archive(run: Run, listed: Listed, records: Sequence[File], missing: Sequence[str]) -> str:
    """Bring the ecosystem in line with its archive; the records win over it, which is made less often.

    What the index lists is there: records that the archive does not have yet are asked for one by one.

    Raises:
        FetchError: it lacks more of them than a day brings.
    """
    url = archive_url(settings.url, str(run.key))
    with fetch(run, url, accept="application/zip", max_bytes=LARGEST, timeout=timedelta(minutes=15)) as archive:
        if not archive.unchanged:
            asked = {*missing, *(each for each, _ in records)}
            records = [*records, *_fetch_records(run, _lacking(listed, archive, asked))[0]]
        meta = {**_meta(listed, archive), "reconciled": run.started_at.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr=meta) as batch:
            held = _held(run)
            newer = list(_rows(run, records, held))
            if archive.unchanged:
                return f"archive unchanged: {batch.upsert(Osv, newer)}"
            ids = set(map(_id, newer))
            older = (row for row in _rows(run, archive.members(".json"), held) if _id(row) not in ids)
            return f"archive: {batch.replace(Osv, chain(older, newer), within={'ecosystem': run.key})}"


def _lacking(listed: Listed, archive: Download, asked: set[str]) -> list[str]:
    """Return the listed records that the archive does not have and that were not asked for yet."""
    known = asked.union(map(id_of, archive.names(".json")))
    lacking = [each for each in listed.ids if each not in known]
    if len(lacking) > max(MANY, len(listed.ids) * SHARE_OF_A_DAY):
        raise archive.refused(f"lacks {len(lacking):,} of the {len(listed.ids):,} records that its index lists")
    return lacking


def _rows(run: Run, files: Iterable[File], held: Mapping[str, datetime]) -> Iterator[Row | Rejected]:
    return read_rows(files, str(run.key), settings.ecosystems, held)


def _held(run: Run, *which: Any) -> Mapping[str, datetime]:
    """When the rows that are in were modified, whichever ecosystem they are of: its archive may list them too.

    After a rewind not its own: of these the source is believed as it is.
    """
    dated = Osv.select(Osv.id, Osv.modified).where(Osv.modified <= run.started_at, *which)
    if _moment(run, "reconciled") is None:
        dated = dated.where(Osv.ecosystem != run.key)
    return dict(dated.tuples().iterator())


def _id(row: Row | Rejected) -> object:
    return row.id if isinstance(row, Row) else row.key


def _moment(run: Run, name: str) -> datetime | None:
    stored = run.meta_attr.get(name)
    return datetime.fromisoformat(stored) if stored else None


def _meta(listed: Listed, *archives: Download) -> dict[str, Any]:
    """Return the cursor, and what fetch keeps."""
    return {"modified": listed.newest and listed.newest.isoformat(), **meta_of(*listed.feeds, *archives)}
