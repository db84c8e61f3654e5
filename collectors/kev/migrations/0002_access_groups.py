"""Access groups for a table that had none: what is in it was, and stays, public."""

from __future__ import annotations

from typing import Any

from collectkit import add_groups


def up(_migrator: Any, db: Any) -> None:
    """Add the groups."""
    add_groups(db, "kev", "public")
