"""Records that a load could not use: that they were there, since when, and why; not what they said."""

from __future__ import annotations

from typing import Any

TABLE = """
CREATE TABLE collectkit.rejected (
  collector text NOT NULL,
  digest text NOT NULL,
  reason text NOT NULL,
  first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (collector, digest)
)
"""


def up(_migrator: Any, db: Any) -> None:
    """Create the table."""
    db.execute_sql(TABLE)
