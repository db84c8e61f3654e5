"""The table as it was before the package had migrations; where it is there already nothing happens."""

from __future__ import annotations

from typing import Any

TABLE = """
CREATE TABLE IF NOT EXISTS kev (
  cve_id text PRIMARY KEY,
  vendor_project text NOT NULL,
  product text NOT NULL,
  vulnerability_name text NOT NULL,
  date_added date NOT NULL,
  short_description text NOT NULL,
  required_action text NOT NULL,
  due_date date NOT NULL,
  known_ransomware_campaign_use text,
  notes text NOT NULL,
  cwes text[] NOT NULL,
  gone_at timestamptz
)
"""


def up(_migrator: Any, db: Any) -> None:
    """Create the table."""
    db.execute_sql(TABLE)
