"""The acts on the ledger: claim, renew, checkpoint, close, find what lapsed or is due. SQL is in ``statements``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg.types.json import Jsonb

from collectkit import schedule, statements
from collectkit.crashpoints import reached
from collectkit.database import database, ledger_db
from collectkit.groups import Acl

Outcome = Literal["OK", "FAILED", "LOST", "HANDED_OVER", "REVOKED"]
Trigger = Literal["due", "inline"]


class Plan(NamedTuple):
    """What freshness follows from, apart from the watermark."""

    schedule: str | None
    tz: str
    fresh_for: timedelta | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim won: the run, and the fence and token that every later act on it must show.

    Attributes:
        scheduled_for: the due time that was taken, given back by the close; None if there was none.
        started_at: the database's clock at the claim.
    """

    run: int
    name: str
    fence: int
    token: uuid.UUID
    attempt: int
    max_attempts: int
    schedule: str | None
    tz: str
    fresh_for: timedelta | None
    scheduled_for: datetime | None
    started_at: datetime
    data_state: str
    updated_until_dt: datetime | None
    meta_attr: dict[str, Any]
    trigger: Trigger
    dry_run: bool

    @property
    def application_name(self) -> str:
        """The name under which this run's transactions show in ``pg_stat_activity``."""
        return f"collectkit {self.run}"


@dataclass(frozen=True, slots=True)
class Closing:
    """How a run ends: what the close gives back, and what it writes down."""

    outcome: Outcome
    give: Literal["tick", "retry", "back"]
    attempt: int
    tick: str
    backoff: timedelta
    error: str | None = None
    result: str | None = None
    counts: dict[str, int] | None = None
    acl: Acl | None = None


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A run that somebody else than its holder closes: its lease is over, or it is revoked."""

    run: int
    dry_run: bool
    trigger: Trigger
    name: str
    fence: int
    token: uuid.UUID
    attempt: int
    max_attempts: int
    schedule: str | None
    tz: str
    worker: str | None
    started_at: datetime
    at: datetime


def claim(
    name: str, *, ttl: timedelta, worker: str, trigger: Trigger = "due", force: bool = False, dry_run: bool = False
) -> Claim | None:
    """Take the collector if it is free, startable and due; None if it is not, quietly.

    Arguments:
        force: take it whether due or not; pause, disabled, blocked and held stand all the same.
    """
    reached("claim.before", name)
    rows = ledger_db.run(
        statements.CLAIM,
        {
            "name": name,
            "token": uuid.uuid4(),
            "ttl": ttl,
            "force": force,
            "trigger": trigger,
            "dry_run": dry_run,
            "worker": worker,
        },
    )
    if not rows:
        return None
    reached("claim.answered", name)
    return Claim(*(*rows[0], trigger, dry_run))


def renew(claims: list[Claim], ttl: timedelta) -> set[uuid.UUID]:
    """Move the leases of all these runs to now + ``ttl``, in one statement; return the tokens that no longer hold."""
    reached("renew.before")
    rows = ledger_db.run(
        statements.RENEW, {"names": [c.name for c in claims], "tokens": [c.token for c in claims], "ttl": ttl}
    )
    reached("renew.answered")
    return {token for (token,) in rows}


def checkpoint(
    held: Claim,
    *,
    until: datetime | None,
    stale_at: str | None,
    complete: bool,
    meta: dict[str, Any],
    removed: list[str],
    counts: dict[str, int],
    acl: Acl | None = None,
) -> Plan | None:
    """Write the watermark in the author's open transaction; None if the lease is lost and it must roll back.

    Returns:
        The plan by which ``stale_at`` has to be reckoned; another one was deployed if it is not the claim's.
    """
    reached("guard.before", held.name)
    cursor = database.execute_sql(
        statements.CHECKPOINT,
        {
            "until": until,
            "stale_at": stale_at,
            "complete": complete,
            "meta": Jsonb(meta),
            "removed": removed,
            "counts": Jsonb(counts),
            **_groups(acl),
            "name": held.name,
            "fence": held.fence,
            "token": held.token,
            "run": held.run,
        },
    )
    reached("guard.after", held.name)
    row = cursor.fetchone()
    return None if row is None else Plan(*row)


def progress(held: Claim, done: int, total: int | None) -> None:
    """Write down how far the run is."""
    ledger_db.run(statements.PROGRESS, {"done": done, "total": total, "run": held.run})


def pull_followers(name: str) -> None:
    """Make due, in the author's open transaction, every collector that follows this one."""
    database.execute_sql(statements.PULL_FOLLOWERS, {"name": name})


def close(held: Claim | Lapsed, closing: Closing, ttl: timedelta) -> bool:
    """Free the lease and finish the run; False if somebody else has closed it before."""
    reached("close.before", held.name)
    rows = ledger_db.run(
        statements.CLOSE,
        {
            "name": held.name,
            "fence": held.fence,
            "token": held.token,
            "run": held.run,
            "ttl": ttl,
            "outcome": closing.outcome,
            "give": closing.give,
            "attempt": closing.attempt,
            "tick": closing.tick,
            "backoff": closing.backoff,
            "error": closing.error,
            "result": closing.result,
            "counts": None if closing.counts is None else Jsonb(closing.counts),
            **_groups(closing.acl),
        },
    )
    reached("close.answered", held.name)
    return bool(rows)


def ending(held: Claim) -> tuple[str, datetime] | None:
    """Return how the run was closed, and when; None if nothing is known of that."""
    rows = ledger_db.read(statements.ENDING, {"run": held.run})
    return (rows[0][0], rows[0][1]) if rows else None


def lapsed(ttl: timedelta, name: str | None = None) -> list[Lapsed]:
    """Return the runs whose lease is over, of all collectors or of one."""
    return [Lapsed(*row) for row in ledger_db.run(statements.LAPSED, {"ttl": ttl, "name": name})]


def due(mine: list[str], room: int) -> list[str]:
    """Return at most ``room`` claimable collectors and instances of ``mine``, and mark them as nudged."""
    rows = ledger_db.run(statements.DUE, {"mine": mine, "room": room})
    return [name for (name,) in rows]


def request(name: str, by: str, note: str | None) -> bool:
    """Make the collector due now and write down who asked; False if there is no such collector."""
    return bool(ledger_db.run(statements.REQUEST, {"name": name, "by": by, "note": note}))


def rewind(name: str, *, to: datetime, stale_at: str, dropped: list[str], by: str, note: str | None) -> bool:
    """Set the watermark back and write down who did; False if it is not after ``to``, or a run is under way."""
    asked = {"name": name, "to": to, "stale_at": stale_at, "dropped": dropped, "by": by, "note": note}
    return bool(ledger_db.run(statements.REWIND, asked))


def seconds_to_next_due(mine: list[str]) -> float | None:
    """Return the seconds until the earliest due time in the future, None if there is none."""
    rows = ledger_db.run(statements.NEXT_DUE, {"mine": mine})
    seconds: float | None = rows[0][0]
    return seconds


def heal(mine: list[str]) -> None:
    """Pull due times that lie beyond the next tick back to it, by the plans that are in force."""
    ticks = {
        name: schedule.tick_after(spec, tz, now)
        for name, spec, tz, now in ledger_db.read(statements.PLANS, {"mine": mine})
    }
    ledger_db.run(statements.HEAL, {"names": list(ticks), "ticks": list(ticks.values())})


def _groups(acl: Acl | None) -> dict[str, list[str] | None]:
    return {
        "acl_read": None if acl is None else list(acl.read),
        "acl_write": None if acl is None else list(acl.write),
    }


def as_text(moment: datetime | None) -> str:
    """Return the moment as the ledger takes it: Python has no infinity, so times go in as text."""
    return "infinity" if moment is None else moment.isoformat()
