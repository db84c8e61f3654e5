"""Keeps the table ``nvd`` in step with the National Vulnerability Database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from collectkit import CollectorSettings, Download, RateLimit, Rejected, Run, Window, collector, cron, fetch
from collectors.nvd.models import Nvd
from collectors.nvd.source import LONGEST, MAX_BYTES, URL, Page, Row, address, read_page, read_rows, utc

OVERLAP = timedelta(days=1)
READ_AGAIN = timedelta(days=30)
"""How often everything is read again, for NVD changes some records without a new date, and dates some in the past."""


class NvdSettings(CollectorSettings, frozen=True, kw_only=True):
    """``NVD_COLLECTOR_API_KEY`` is NVD's key, with which it takes ten times as many requests."""

    url: str = URL
    api_key: str | None = None


settings = NvdSettings.load("NVD_COLLECTOR")
LIMIT = RateLimit(50 if settings.api_key else 5, timedelta(seconds=30))


class Place(msgspec.Struct, frozen=True):
    """Where a paging stands; it commits with the rows of each page, so that a run goes on where one was killed.

    Attributes:
        window: what is paged through; None is everything.
        start: where the next page begins.
        total: how many records there were at the first answer; None before it.
        until: the server's clock at the first answer.
        rejected: how many records could not be read so far.
    """

    window: Window | None
    start: int = 0
    total: int | None = None
    until: datetime | None = None
    rejected: int = 0


class Shifted(Exception):
    """Records have come or gone between two pages, so others may have moved from one page to its neighbour."""


@collector(
    periodic=cron("47 */2 * * *"),  # NVD asks for no more than that
    data_models=[Nvd],
    acl="public",
    enabled=settings.enabled,
    fresh_for=timedelta(hours=12),
    deadline=timedelta(hours=4),
    max_attempts=10,  # a first load is some 180 requests to a server that is often overloaded
    cursor_keys=("paging", "whole"),
)
def nvd_collector(run: Run) -> str:
    """CVE records: the first load pages through all of them, then windows of what was modified; each month all again.

    The watermark is the server's clock. An empty window proves nothing, for NVD has answered so when it was broken: the
    watermark stays, unless a later window of the same run has records.
    """
    windows = empty = 0
    for place in _places(run):
        windows += place.window is not None
        empty += not _page_through(run, place)
    return f"empty windows: {empty} of {windows}; {run.counts}" if empty else f"{run.counts}"


def _places(run: Run) -> Iterator[Place]:
    """What is to be read: the windows since the watermark, then everything if it is time; each from where it stands."""
    if run.updated_until_dt is not None:
        since, overlap = run.updated_until_dt, OVERLAP
        begun = _begun(run, "paging")
        if begun is not None and begun.window is not None:
            yield begun
            since, overlap = begun.window.end, timedelta(0)
        for window in run.windows(since, LONGEST, overlap):
            yield Place(window)
    read_at = run.meta_attr.get("read_whole")
    if read_at is None or run.started_at - datetime.fromisoformat(read_at) >= READ_AGAIN:
        yield _begun(run, "whole") or Place(None)


def _begun(run: Run, cursor: str) -> Place | None:
    place = run.meta_attr.get(cursor)
    return msgspec.convert(place, Place) if place else None


def _cursor(place: Place) -> str:
    return "paging" if place.window else "whole"


def _page_through(run: Run, place: Place) -> bool:
    """Read page by page, each committed with its place; return whether there was anything."""
    headers = {"apiKey": settings.api_key} if settings.api_key else {}
    unread: Place | None = place
    while unread is not None:
        url = address(settings.url, unread.start, unread.window)
        with fetch(run, url, headers=headers, limit=LIMIT, max_bytes=MAX_BYTES) as feed:
            page = read_page(feed, unread.start)
        if unread.window is None:
            _check_whole(run, feed, page)
        elif page.total_results == 0 and unread.total is None:
            return False
        try:
            unread = _commit(run, unread, page)
        except Shifted as shift:
            run.store(complete=False, meta_attr={_cursor(place): None})
            raise feed.refused(f"{shift}: pages have shifted, all of it is read anew") from None
    return True


def _check_whole(run: Run, feed: Download, page: Page) -> None:
    """Refuse what would spoil the place that the load has reached: no records at all, a watermark that is to come."""
    if page.total_results == 0:
        raise feed.refused("holds no records at all")
    if utc(page.timestamp) > run.started_at + timedelta(days=1):
        raise feed.refused(f"says that it is {page.timestamp:%Y-%m-%d}, which is to come")


def _commit(run: Run, place: Place, page: Page) -> Place | None:
    """Write the rows of a page; return the place of the next, None if it was the last.

    While a window is paged through, ``totalResults`` must hold still. Where all is read, which takes half an hour, it
    grows: what came after the first answer is modified after it, so the windows that follow read it. But nothing may
    have gone, and in the end as many records must be in as there are.

    Raises:
        Shifted: records may have slipped through between the pages; nothing of this one was written.
    """
    total = page.total_results if place.total is None else place.total
    until = place.until or utc(page.timestamp)
    if page.total_results < total or (place.window and page.total_results > total):
        raise Shifted(f"totalResults went from {total:,} to {page.total_results:,}")
    if not page.vulnerabilities:
        raise Shifted(f"ends after {page.end:,} of {page.total_results:,} records")
    rows = list(read_rows(page))
    rejected = place.rejected + sum(isinstance(row, Rejected) for row in rows)
    following = None
    if page.end < page.total_results:
        following = Place(place.window, page.end, total, until, rejected)
    meta = {_cursor(place): msgspec.to_builtins(following)}
    if following is None and place.window is None:
        meta["read_whole"] = run.started_at.isoformat()
    with run.checkpoint(
        updated_until_dt=None if following else _watermark(run, place.window, until),
        complete=following is None,
        meta_attr=meta,
    ) as batch:
        batch.upsert(Nvd, _newest(run, rows))
        grown = following is None and page.total_results > total
        if grown and not run.dry_run and Nvd.select().count() + rejected < page.total_results:
            raise Shifted(f"holds {page.total_results:,} records, of which some were not on any page")
    run.progress(page.end, page.total_results)
    return following


def _watermark(run: Run, window: Window | None, until: datetime) -> datetime:
    """Return up to when all is in: no later than the server's clock, and no earlier than it was."""
    if run.updated_until_dt is None:
        return until
    # Reading everything again moves nothing: the windows before it have.
    return run.updated_until_dt if window is None else max(run.updated_until_dt, min(window.end, until))


def _newest(run: Run, rows: list[Row | Rejected]) -> list[Row | Rejected]:
    """Leave out what is older than what is in: an answer from a cache, or the older of two of the same page."""
    read = sorted((row for row in rows if isinstance(row, Row)), key=lambda row: row.last_modified)
    known = Nvd.select(Nvd.cve_id, Nvd.last_modified).where(
        Nvd.cve_id.in_([row.cve_id for row in read]),
        Nvd.last_modified <= run.started_at,  # a time to come is a mistake, and would keep the row as it is till then
    )
    stored: dict[str, datetime] = dict(known.tuples().iterator())
    newest = [row for row in read if row.last_modified >= stored.get(row.cve_id, row.last_modified)]
    if older := len(read) - len(newest):
        run.log.warning("records older than those that are in, passed over: %d", older)
    return [*newest, *(row for row in rows if isinstance(row, Rejected))]
