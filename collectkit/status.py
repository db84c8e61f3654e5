"""What readers ask: the status of collectors, and why something does not run.

State is derived here, whenever it is read, and stored nowhere: a stored state is one that can stick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from collectkit.database import ledger_db, settings_in_force

State = Literal["RUNNING", "BLOCKED", "PENDING", "READY"]

# One query for everything: readers never evaluate a cron, so thousands of collectors cost one round trip.
_READ = """
SELECT c.name, c.data_state, c.depends_on, c.after, c.last_error, c.data_models, c.updated_until_dt,
       nullif(c.stale_at, 'infinity'), c.stale_at = 'infinity', c.enabled, c.retired_at, c.paused_at, c.paused_by,
       c.paused_note, c.schedule, c.tz, c.meta_attr, nullif(c.next_due_at, 'infinity'), c.attempt, c.max_attempts,
       c.holder, c.lease_until > clock_timestamp(), clock_timestamp(),
       ARRAY(SELECT n FROM unnest(c.depends_on) n LEFT JOIN collectkit.collector d ON d.name = n
              WHERE d.data_state IS DISTINCT FROM 'COMPLETE'),
       l.id, l.outcome, l.attempt, l.trigger, l.dry_run, l.scheduled_for, l.started_at, l.finished_at, l.worker,
       l.counts, l.result, l.error, l.done, l.total, o.finished_at
  FROM collectkit.collector c
  LEFT JOIN LATERAL (SELECT r.id, r.outcome, r.attempt, r.trigger, r.dry_run, r.scheduled_for, r.started_at,
                            r.finished_at, r.worker, r.counts, r.result, r.error, r.done, r.total
                       FROM collectkit.run r WHERE r.collector = c.name ORDER BY r.fence DESC LIMIT 1) l ON true
  LEFT JOIN LATERAL (SELECT r.finished_at FROM collectkit.run r
                      WHERE r.collector = c.name AND r.outcome = 'OK' AND NOT r.dry_run
                      ORDER BY r.fence DESC LIMIT 1) o ON true
 WHERE (%(names)s::text[] IS NULL OR c.name = ANY (%(names)s))
   AND (c.retired_at IS NULL OR %(names)s::text[] IS NOT NULL)
 ORDER BY c.name
"""

_NAMES = "SELECT name, data_models FROM collectkit.collector WHERE retired_at IS NULL ORDER BY name"


class LastRun(msgspec.Struct, frozen=True):
    """The newest run in a collector's history, finished or not."""

    id: int
    outcome: str
    attempt: int
    trigger: str
    dry_run: bool
    scheduled_for: datetime | None
    started_at: datetime
    finished_at: datetime | None
    worker: str | None
    counts: dict[str, int]
    result: str | None
    error: str | None


class Progress(msgspec.Struct, frozen=True):
    """How far a run is by its own account; ``total`` is None if it does not know."""

    done: int
    total: int | None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.done:,} done"
        return f"{self.done:,} of {self.total:,} done ({100 * self.done // self.total}%)"


class Paused(msgspec.Struct, frozen=True):
    """Who paused a collector, when and why."""

    at: datetime
    by: str | None
    note: str | None


class CollectorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One collector as monitors see it; the service sends it as it stands.

    Attributes:
        data: EMPTY, PARTIAL or COMPLETE.
        state: RUNNING, BLOCKED, PENDING (never ran) or READY.
        error: one line of the last failure; None once a run succeeded.
        lag: seconds between now and the watermark.
        next_due: None while it runs, unless one more run was asked for, and for one that only follows others.
        blocked_by: the dependencies that are not complete, whether the collector is due or not.
        cursor: what checkpoints keep in ``meta_attr``, without what fetch keeps there.
        progress: how far the newest run is, or came; None if it does not say.
        reason: why it does not run right now, in words.
    """

    data: str
    depends_on: list[str]
    error: str | None
    is_complete: bool
    is_up2date: bool
    data_models: list[str]
    state: State
    updated_until: datetime | None
    enabled: bool
    after: list[str]
    schedule: str | None
    tz: str
    stale_at: datetime | None
    lag: float | None
    next_due: datetime | None
    attempt: int
    blocked_by: list[str]
    paused: Paused | None
    retired_at: datetime | None
    cursor: dict[str, Any]
    counts: dict[str, int]
    last_run: LastRun | None
    last_success: datetime | None
    progress: Progress | None
    reason: str


def read_status(names: Sequence[str] | None = None) -> dict[str, CollectorStatus]:
    """Return the status of these collectors by full name, or of all that are not retired."""
    settings_in_force()
    wanted = None if names is None else list(names)
    rows = {row[0]: row for row in ledger_db.read(_READ, {"names": wanted})}
    fresh = _Freshnesses(rows)
    return {name: _status(row, is_up2date=fresh.of(name)) for name, row in rows.items()}


def known_names() -> list[str]:
    """Return the full names of all collectors that are not retired."""
    return list(known_models())


def known_models() -> dict[str, list[str]]:
    """Return the models' names of each collector that is not retired."""
    settings_in_force()
    return dict(ledger_db.read(_NAMES))


def reason(name: str) -> str:
    """Say in words why the collector does not run right now."""
    status = read_status([name]).get(name)
    return "it has no row yet: run `collectkit migrate`" if status is None else status.reason


class _Freshnesses:
    """Up to date is a question of the row, but for one that only follows: then of those it follows, too."""

    def __init__(self, rows: dict[str, tuple[Any, ...]]) -> None:
        self._rows = rows

    def of(self, name: str, seen: frozenset[str] = frozenset()) -> bool:
        row = self._rows.get(name) or self._fetch(name)
        if row is None or name in seen:
            return False
        state, after, stale_at, never_stale, now = row[1], row[3], row[7], row[8], row[22]
        if state != "COMPLETE":
            return False
        if stale_at is not None:
            return bool(now < stale_at)
        return bool(never_stale) and all(self.of(other, seen | {name}) for other in after)

    def _fetch(self, name: str) -> tuple[Any, ...] | None:
        rows = ledger_db.read(_READ, {"names": [name]})
        return rows[0] if rows else None


def _status(row: tuple[Any, ...], *, is_up2date: bool) -> CollectorStatus:
    (_, data, depends_on, after, error, models, until, stale_at, _, enabled, retired_at, paused_at, paused_by,
     paused_note, schedule, tz, meta, next_due, attempt, max_attempts, holder, lease_holds, now, blocked_by,
     *run) = row  # fmt: skip
    *run, done, total, last_success = run
    progress = None if done is None else Progress(done, total)
    last_run = None if run[0] is None else LastRun(*run)
    paused = None if paused_at is None else Paused(paused_at, paused_by, paused_note)
    is_due = next_due is not None and next_due <= now
    state: State = "READY"
    if holder is not None and lease_holds:
        state = "RUNNING"
    elif holder is None and is_due and blocked_by:
        state = "BLOCKED"
    elif last_run is None:
        state = "PENDING"
    why = _reason(
        state=state,
        lapsed=holder is not None and not lease_holds,
        retired_at=retired_at,
        enabled=enabled,
        paused=paused,
        blocked_by=blocked_by,
        is_due=is_due,
        next_due=next_due,
        after=after,
        attempt=attempt,
        max_attempts=max_attempts,
        last_run=last_run,
        progress=progress,
    )
    return CollectorStatus(
        data=data,
        depends_on=depends_on,
        error=error,
        is_complete=data == "COMPLETE",
        is_up2date=is_up2date,
        data_models=models,
        state=state,
        updated_until=until,
        enabled=enabled,
        after=after,
        schedule=schedule,
        tz=tz,
        stale_at=stale_at,
        lag=None if until is None else (now - until).total_seconds(),
        next_due=next_due,
        attempt=attempt,
        blocked_by=blocked_by,
        paused=paused,
        retired_at=retired_at,
        cursor={key: value for key, value in meta.items() if not key.startswith("_")},
        counts={} if last_run is None else last_run.counts,
        last_run=last_run,
        last_success=last_success,
        progress=progress,
        reason=why,
    )


def _reason(  # noqa: PLR0911 - one sentence for each thing that can hold a collector up
    *,
    state: State,
    lapsed: bool,
    retired_at: datetime | None,
    enabled: bool,
    paused: Paused | None,
    blocked_by: Iterable[str],
    is_due: bool,
    next_due: datetime | None,
    after: list[str],
    attempt: int,
    max_attempts: int,
    last_run: LastRun | None,
    progress: Progress | None,
) -> str:
    if lapsed and last_run is not None:
        return f"lost, about to be closed: run {last_run.id} stopped renewing its lease"
    if state == "RUNNING" and last_run is not None:
        so_far = f": {progress}" if progress else ""
        return f"held by run {last_run.id} on {last_run.worker}, running since {_time(last_run.started_at)}{so_far}"
    if retired_at is not None:
        return f"retired since {_time(retired_at)}: its code is gone"
    if not enabled:
        return "disabled by its declaration: enable it there or in its settings, then run `collectkit migrate`"
    if paused is not None:
        note = f": {paused.note}" if paused.note else ""
        return f"paused by {paused.by or 'somebody'} since {_time(paused.at)}{note}"
    if blocked_by:
        return f"blocked by {', '.join(blocked_by)}: not complete yet"
    if is_due:
        return "due, waiting for a worker"
    if next_due is None:
        return f"waits for changes in {', '.join(after)}"
    if attempt:
        return f"failed, attempt {attempt} of {max_attempts}: tried again at {_time(next_due)}"
    return f"not due before {_time(next_due)}"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
