"""How far a run is: what it has done, and of how much."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Add the columns; a run that says nothing leaves them null."""
    db.execute_sql("ALTER TABLE collectkit.run ADD COLUMN done bigint, ADD COLUMN total bigint")
