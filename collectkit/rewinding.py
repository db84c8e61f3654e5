"""Setting a collector back to an earlier watermark, so that its next run reads from there again."""

from __future__ import annotations

from datetime import datetime

from collectkit import ledger, schedule
from collectkit.actor import Collector
from collectkit.closing import close_revoked
from collectkit.database import settings_in_force
from collectkit.errors import CollectkitError
from collectkit.fetch import META_KEY
from collectkit.status import read_status

# A worker may claim the collector between the close of its run and the rewind: that run is closed too.
_TRIES = 5


def rewind(collector: Collector, name: str, to: datetime, *, by: str, note: str | None = None) -> None:
    """The watermark is ``to``, and the next run, which is due at once, goes on from there.

    A run that is under way is closed as REVOKED first: it would go on from a place that is no longer its own. What the
    collector names in ``cursor_keys`` is forgotten, and so are the validators of downloads, or "unchanged" would be the
    answer. Rows stay as they are until that run writes them, and complete data stay complete.

    Arguments:
        collector: the one that declares it.
        name: its full name, that of one instance if it has several.
        to: a moment with its zone, before the watermark.
        by: who asks, kept in the audit.
        note: why.

    Raises:
        CollectkitError: the watermark is not after ``to``, or there is none.
    """
    ttl = settings_in_force().lease_ttl
    declared = collector.declared
    spec, tz = (declared.periodic.spec, declared.periodic.tz) if declared.periodic else (None, "UTC")
    stale_at = ledger.as_text(schedule.stale_at(spec, tz, declared.fresh_for, to))
    dropped = [*declared.cursor_keys, META_KEY]
    for _ in range(_TRIES):
        close_revoked(name, f"revoked: {by} set the watermark back to {to.isoformat()}", ttl)
        if ledger.rewind(name, to=to, stale_at=stale_at, dropped=dropped, by=by, note=note):
            return
        found = read_status([name]).get(name)
        if found is None:
            raise CollectkitError(f"collector {name!r}: it has no row yet: run `collectkit migrate`")
        if found.updated_until is None or found.updated_until <= to:
            until = found.updated_until
            stands = (
                "it has no watermark yet" if until is None else f"its watermark is {until}, which is not after {to}"
            )
            raise CollectkitError(f"collector {name!r}: nothing was rewound: {stands}")
    raise CollectkitError(f"collector {name!r}: nothing was rewound: it starts again and again, try once more")
