"""The history of runs, for readers: what ran, how it ended and what it changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from collectkit.database import ledger_db, settings_in_force

# A collector's runs have rising fences and rising ids alike; the index is on the fence, and one page of each is enough.
_READ = """
SELECT r.id, r.collector, r.outcome, r.attempt, r.trigger, r.dry_run, r.scheduled_for, r.started_at, r.finished_at,
       r.worker, r.acl_read, r.acl_write, r.counts, r.until_before, r.until_after, r.result, r.error
  FROM unnest(%(names)s::text[]) n
 CROSS JOIN LATERAL (SELECT own.id FROM collectkit.run own
                      WHERE own.collector = n AND (%(before)s::bigint IS NULL OR own.id < %(before)s)
                      ORDER BY own.fence DESC LIMIT %(limit)s) page
  JOIN collectkit.run r ON r.id = page.id
 ORDER BY r.id DESC LIMIT %(limit)s
"""


class PastRun(msgspec.Struct, frozen=True):
    """One run in a collector's history; one that has not ended yet has the outcome RUNNING.

    Attributes:
        acl_read, acl_write: the access groups that it acted under; None for none.
        scheduled_for: the due time that it took; None for one that nothing was due for.
        until_before, until_after: the watermark as it found it, and as its last checkpoint left it.
        result: what the collector's function returned.
    """

    id: int
    collector: str
    outcome: str
    attempt: int
    trigger: str
    dry_run: bool
    scheduled_for: datetime | None
    started_at: datetime
    finished_at: datetime | None
    worker: str | None
    acl_read: list[str] | None
    acl_write: list[str] | None
    counts: dict[str, int]
    until_before: datetime | None
    until_after: datetime | None
    result: str | None
    error: str | None


def read_runs(names: Sequence[str], *, before: int | None = None, limit: int = 50) -> list[PastRun]:
    """Return the runs of these collectors, by full name, newest first.

    Arguments:
        before: only runs whose id is smaller: the last one of the page before.
        limit: how many at most.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    settings_in_force()
    rows = ledger_db.read(_READ, {"names": list(names), "before": before, "limit": limit})
    return [PastRun(*row) for row in rows]
