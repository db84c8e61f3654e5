"""How a run ends: what its close gives back, by the attempt rule, and the close of runs that are lost or revoked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from collectkit import schedule, statements
from collectkit.crashpoints import reached
from collectkit.database import ledger_db
from collectkit.groups import Acl
from collectkit.ledger import Claim, Closing, Lapsed, Outcome, as_text, close

LONGEST_BACKOFF = timedelta(minutes=15)


def closing(
    held: Claim | Lapsed,
    outcome: Outcome,
    *,
    at: datetime,
    backoff: timedelta = LONGEST_BACKOFF,
    longest_backoff: timedelta = LONGEST_BACKOFF,
    error: str | None = None,
    result: str | None = None,
    counts: dict[str, int] | None = None,
    acl: Acl | None = None,
) -> Closing:
    """Decide what the close of a run gives back; the one place of the attempt rule.

    OK, and a scheduled dry run whatever its outcome: the first tick after the claim. FAILED: the earlier of now +
    ``backoff`` and that tick, LOST: its own due time, while attempts are left; then the tick. Handed over, revoked, or
    a dry run by hand: its own due time, and the attempt does not count.

    Arguments:
        at: a moment by the database's clock, from which the longest backoff counts for a collector without a schedule
            whose attempts are spent; there is no tick that it could wait for.
    """
    spent = held.attempt >= held.max_attempts
    failed = outcome in {"FAILED", "LOST"} and not held.dry_run
    give: Literal["tick", "retry", "back"]
    if outcome in {"HANDED_OVER", "REVOKED"} or (held.dry_run and held.trigger == "inline"):
        give, attempt = "back", held.attempt - 1
    elif failed and not spent:
        give, attempt = ("retry" if outcome == "FAILED" else "back"), held.attempt
    else:
        give, attempt = "tick", 0
    tick = schedule.tick_after(held.schedule, held.tz, held.started_at)
    if tick is None and failed and spent:
        tick = at + longest_backoff
    return Closing(
        outcome=outcome,
        give=give,
        attempt=attempt,
        tick=as_text(tick),
        backoff=backoff,
        error=error,
        result=result,
        counts=counts,
        acl=acl,
    )


def close_revoked(name: str, reason: str, ttl: timedelta) -> None:
    """Close the collector's run, if one is under way, as REVOKED; its due time is given back, and no attempt counts."""
    for row in ledger_db.run(statements.HELD, {"name": name}):
        run = Lapsed(*row)
        _end_backend(run)
        close(run, closing(run, "REVOKED", at=run.at, error=reason), ttl)


def close_lost(run: Lapsed, ttl: timedelta) -> bool:
    """End the backend of a lapsed run, then close it as LOST; False if somebody else was faster."""
    reached("lost.before", run.name)
    _end_backend(run)
    reached("lost.backend_ended", run.name)
    reason = f"lost: {run.worker} stopped renewing run {run.run} (attempt {run.attempt} of {run.max_attempts})"
    closed = close(run, closing(run, "LOST", at=run.at, error=reason), ttl)
    reached("lost.closed", run.name)
    return closed


def _end_backend(run: Lapsed) -> None:
    ledger_db.run(statements.END_BACKEND, {"application_name": f"collectkit {run.run}"})
