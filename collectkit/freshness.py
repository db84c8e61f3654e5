"""What services ask: how fresh a table is, up to when several are complete, and for one more run. No broker needed."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import peewee

from collectkit import ledger
from collectkit.errors import UnknownCollector
from collectkit.names import resolve
from collectkit.status import known_models, known_names, read_status


class Freshness(msgspec.Struct, frozen=True):
    """How fresh a table is, for services.

    Attributes:
        lag: now minus the watermark; None without a watermark.
        reason: why the collector does not run right now, in words.
    """

    name: str
    is_up2date: bool
    is_complete: bool
    updated_until: datetime | None
    stale_at: datetime | None
    lag: timedelta | None
    reason: str


def freshness(what: str | type[peewee.Model]) -> Freshness:
    """Return how fresh a collector's data, or the table of a model, are; needs no broker.

    Arguments:
        what: any unambiguous part of a collector's name, or a model: then of all collectors that fill it, the least.

    Raises:
        UnknownCollector, AmbiguousName: the name fits none, or several.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    if isinstance(what, str):
        wanted = resolve(what, known_names())
        label = what if len(wanted) > 1 else wanted[0]
    else:
        label = what.__name__
        wanted = [name for name, models in known_models().items() if label in models]
        if not wanted:
            raise UnknownCollector(label)
    statuses = list(read_status(wanted).values())
    marks = [status.updated_until for status in statuses if status.updated_until is not None]
    until = min(marks) if len(marks) == len(statuses) else None
    lags = [status.lag for status in statuses if status.lag is not None]
    stale = [status.stale_at for status in statuses if status.stale_at is not None]
    return Freshness(
        name=label,
        is_up2date=all(status.is_up2date for status in statuses),
        is_complete=all(status.is_complete for status in statuses),
        updated_until=until,
        stale_at=min(stale, default=None),
        lag=timedelta(seconds=max(lags)) if until is not None else None,
        reason=next((status.reason for status in statuses if not status.is_up2date), statuses[0].reason),
    )


def complete_until(*names: str) -> datetime | None:
    """Return the moment up to which all these collectors are complete; None if one of them is not."""
    found = [freshness(name) for name in names]
    marks = [fresh.updated_until for fresh in found if fresh.is_complete and fresh.updated_until is not None]
    return min(marks) if marks and len(marks) == len(found) else None


def request_run(name: str, *, by: str, note: str | None = None) -> str:
    """Make a collector due now, also while it runs; one more run follows. Needs no broker: the next sweep sees it.

    Arguments:
        name: any unambiguous part of its name.
        by: who asks, kept in the audit.
        note: why.

    Returns:
        The collector's full name; of a parametrised one, of its first instance: all are requested.
    """
    wanted = resolve(name, known_names())
    for each in wanted:
        ledger.request(each, by, note)
    return wanted[0]
