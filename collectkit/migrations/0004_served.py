"""The tables that the service shows, as their models declare them: the service knows no collector's code."""

from __future__ import annotations

from typing import Any

TABLE = """
CREATE TABLE collectkit.served (
  name text PRIMARY KEY,
  package text NOT NULL,
  schema text NOT NULL,
  key text[] NOT NULL,
  columns text[] NOT NULL,
  seal text
)
"""


def up(_migrator: Any, db: Any) -> None:
    """Create the table."""
    db.execute_sql(TABLE)
