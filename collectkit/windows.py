"""A stretch of time, cut into windows that a source can be asked for one by one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_NOTHING = timedelta(0)


class Window(NamedTuple):
    """What happened from ``start`` (included) to ``end`` (excluded), both in UTC."""

    start: datetime
    end: datetime


def windows(since: datetime, until: datetime, size: timedelta, overlap: timedelta = _NOTHING) -> Iterator[Window]:
    """Yield consecutive windows of at most ``size`` that cover ``since - overlap`` to ``until``, oldest first.

    Each begins where the one before ended, and the last is cut at ``until``, so that a run which checkpoints window by
    window can stop after any of them and go on there. The overlap is taken once, at the start: it asks again for what
    the source may have added late, and windows of one run need no more of it among themselves.

    Sizes are time that passes, not time on a clock: a window of one day has 24 hours when clocks change, too.

    Args:
        since: the watermark, up to which all data are in.
        until: the end, usually now by the source's clock. Nothing is yielded if it is not after the start.
        size: the longest window that the source answers.
        overlap: how far to go back behind ``since``.

    Raises:
        ValueError: a time without a zone, a size that is not positive, a negative overlap; at the call, not at the
            first window.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment.utcoffset() is None:
            raise ValueError(f"{name} {moment!r} has no time zone: give an aware datetime")
    if size <= _NOTHING:
        raise ValueError(f"size {size} is not positive: windows of it would never reach until")
    if overlap < _NOTHING:
        raise ValueError(f"overlap {overlap} is negative: what lies between would never be asked for")
    return _cut(since.astimezone(UTC) - overlap, until.astimezone(UTC), size)


def _cut(start: datetime, until: datetime, size: timedelta) -> Iterator[Window]:
    while start < until:
        end = start + size if until - start > size else until
        yield Window(start, end)
        start = end
