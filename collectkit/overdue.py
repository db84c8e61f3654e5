"""What a readiness probe asks: which collectors ought to have run by now."""

from __future__ import annotations

from datetime import timedelta

from collectkit.database import ledger_db, settings_in_force

# Claimable or lapsed for longer than the limit. A database that has just started gives everybody a lease's time.
_OVERDUE = """
SELECT c.name FROM collectkit.collector c
 WHERE c.retired_at IS NULL
   AND (c.lease_until < clock_timestamp() - %(limit)s
        OR (c.holder IS NULL AND c.enabled AND c.paused_at IS NULL AND c.next_due_at < clock_timestamp() - %(limit)s
            AND NOT EXISTS (SELECT FROM unnest(c.depends_on) n LEFT JOIN collectkit.collector d ON d.name = n
                             WHERE d.data_state IS DISTINCT FROM 'COMPLETE')))
   AND clock_timestamp() NOT BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + %(limit)s
 ORDER BY c.name
"""


def overdue(limit: timedelta) -> list[str]:
    """Return the collectors that could have run, or whose lease lapsed, longer than ``limit`` ago."""
    settings_in_force()
    return [name for (name,) in ledger_db.read(_OVERDUE, {"limit": limit})]
