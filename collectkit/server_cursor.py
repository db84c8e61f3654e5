"""A server-side cursor whose rows are those of the groups that it was executed under, whenever they are fetched.

PostgreSQL asks for the groups when it first looks at a row of a table that has some, not when the cursor is declared;
that may be any of its rows, as in a UNION, and others may be in force by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg


class ServerCursor(psycopg.ServerCursor[Any]):
    """A cursor of psycopg's that calls ``before_rows`` each time before it asks for some."""

    before_rows: Callable[[], None] | None = None

    def fetchone(self) -> Any:
        """Return the next row, None if there is none left."""
        self._prepare()
        return super().fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Return the next rows."""
        self._prepare()
        return super().fetchmany(size)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        self._prepare()
        return super().fetchall()

    def __next__(self) -> Any:
        self._prepare()
        return super().__next__()

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Pass over rows."""
        self._prepare()
        super().scroll(value, mode)

    def _prepare(self) -> None:
        if self.before_rows is not None:
            self.before_rows()
