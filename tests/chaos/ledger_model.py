"""The ledger's rules in plain Python, one collector a row, for a state machine to compare the real one with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from collectkit.ledger import Claim, Lapsed
from collectkit.schedule import tick_after

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""Stands for 'infinity', which Python has not."""

TTL = timedelta(seconds=30)
NUDGE_EVERY = timedelta(seconds=10)

COLUMNS = """
name, schedule, depends_on, enabled, max_attempts, retired_at IS NOT NULL, paused_at IS NOT NULL, data_state,
updated_until_dt, CASE WHEN stale_at = 'infinity' THEN '9999-12-31' ELSE stale_at END, meta_attr,
CASE WHEN next_due_at = 'infinity' THEN '9999-12-31' ELSE next_due_at END, nudged_at, attempt, last_error, fence,
holder, lease_until
"""


@dataclass
class Row:
    """One collector, as the ledger should have it."""

    name: str
    schedule: str | None
    depends_on: list[str]
    enabled: bool
    max_attempts: int
    next_due: datetime | None
    after: tuple[str, ...] = ()
    retired: bool = False
    paused: bool = False
    data_state: str = "EMPTY"
    until: datetime | None = None
    stale_at: datetime | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    nudged: datetime | None = None
    attempt: int = 0
    last_error: str | None = None
    fence: int = 0
    holder: Any = None
    lease_until: datetime | None = None
    scheduled_for: datetime | None = None
    locked: bool = False
    """Whether an open checkpoint has the row's lock."""

    def columns(self) -> tuple[Any, ...]:
        """Return what the database should show."""
        return (
            self.name, self.schedule, self.depends_on, self.enabled, self.max_attempts, self.retired, self.paused,
            self.data_state, self.until, self.stale_at, self.meta, self.next_due, self.nudged,
            self.attempt, self.last_error, self.fence, self.holder, self.lease_until,
        )  # fmt: skip

    def is_held_by(self, claim: Claim | Lapsed) -> bool:
        """Tell whether the run may still commit and close."""
        return (self.fence, self.holder) == (claim.fence, claim.token)

    def is_lapsed(self, now: datetime) -> bool:
        """Tell whether the lease is over, or lies where no living holder has put it."""
        return self.lease_until is not None and not now <= self.lease_until <= now + 3 * TTL

    def tick_from(self, moment: datetime) -> datetime:
        """Return the first tick after a moment, for ever if there is no schedule."""
        return moment if moment == FOREVER else tick_after(self.schedule, "UTC", moment) or FOREVER

    def pull(self, to: datetime) -> None:
        """Become due at ``to`` if that is earlier."""
        self.next_due = to if self.next_due is None else min(self.next_due, to)

    def be_claimed(self, holder: Any, now: datetime) -> None:
        """Be held from now on; the due time goes into the run."""
        self.fence += 1
        self.attempt += 1
        self.scheduled_for = None if self.next_due == FOREVER else self.next_due
        self.holder, self.lease_until, self.next_due, self.nudged = holder, now + TTL, None, None

    def write(self, until: datetime | None, complete: bool, meta: dict[str, Any]) -> None:
        """Take what a checkpoint says."""
        self.until = max(filter(None, (self.until, until)), default=None)
        if until is not None:
            self.stale_at = self.stale_from(self.until)
        self.data_state = "COMPLETE" if complete or self.data_state == "COMPLETE" else "PARTIAL"
        self.meta = {key: value for key, value in (self.meta | meta).items() if value is not None}

    def stale_from(self, until: datetime | None) -> datetime | None:
        """Return from when on data up to there are stale: from the second tick after, with a minute's grace."""
        return until and self.tick_from(self.tick_from(until + timedelta(minutes=1)))

    def declare(self, schedule: str | None, enabled: bool, max_attempts: int, now: datetime) -> None:
        """Be declared so from now on."""
        is_waiting = self.holder is None and self.attempt == 0 and self.next_due > now
        if schedule != self.schedule:
            self.schedule = schedule
            self.stale_at = self.stale_from(self.until)
            if is_waiting:
                self.next_due = self.tick_from(now)
            else:
                self.pull(self.tick_from(now))
        self.enabled, self.max_attempts, self.retired = enabled, max_attempts, False

    def give_back(
        self, claim: Claim | Lapsed, outcome: str, now: datetime, backoff: timedelta, error: str | None
    ) -> None:
        """Be closed: the lease ends, and a due time comes back."""
        tick = tick_after(claim.schedule, "UTC", claim.started_at) or FOREVER
        failed = outcome in {"FAILED", "LOST"} and not claim.dry_run
        spent = claim.attempt >= claim.max_attempts
        self.attempt = 0
        if outcome in {"HANDED_OVER", "REVOKED"} or (claim.dry_run and claim.trigger == "inline"):
            given, self.attempt = self.scheduled_for or tick, claim.attempt - 1
        elif failed and not spent:
            given, self.attempt = self.scheduled_for or tick, claim.attempt
            if outcome == "FAILED":
                given = min(now + backoff, tick)
        elif failed and claim.schedule is None:
            given = (claim.at if isinstance(claim, Lapsed) else claim.started_at) + timedelta(minutes=15)
        else:
            given = tick
        if not claim.dry_run and outcome not in {"HANDED_OVER", "REVOKED"}:
            self.last_error = error
        self.pull(given)
        self.holder = self.lease_until = self.nudged = None


class Ledger:
    """All rows, and what one has to do with another."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.rows = {
            "base": Row("base", "0 * * * *", [], enabled=True, max_attempts=2, next_due=now),
            "derived": Row("derived", "*/10 * * * *", ["base"], enabled=True, max_attempts=3, next_due=now),
            "follower": Row("follower", None, [], enabled=True, max_attempts=2, next_due=now, after=("base",)),
        }

    def is_startable(self, row: Row) -> bool:
        """Tell whether nothing but the time keeps it from being claimed."""
        blocked = any(name not in self.rows or self.rows[name].data_state != "COMPLETE" for name in row.depends_on)
        return row.holder is None and row.enabled and not row.retired and not row.paused and not blocked

    def is_claimable(self, row: Row) -> bool:
        """Tell whether a nudge would start it."""
        return self.is_startable(row) and row.next_due is not None and row.next_due <= self.now

    def to_nudge(self) -> list[str]:
        """Return what a sweep nudges."""
        rested = timedelta(0), NUDGE_EVERY
        found = [
            row
            for row in self.rows.values()
            if self.is_claimable(row)
            and not row.locked
            and (row.nudged is None or not rested[0] <= self.now - row.nudged <= rested[1])
        ]
        return [row.name for row in sorted(found, key=lambda row: (row.next_due, row.name))]

    def followers(self, name: str) -> list[Row]:
        """Return those that follow it."""
        return [row for row in self.rows.values() if name in row.after]
