"""Counts the statements that are sent, which is how long a search for leaks is."""

from __future__ import annotations

import threading
from typing import Any, Self

import psycopg


class Counter:
    """Counts the statements that actors send, on whatever connection."""

    def __init__(self) -> None:
        self.statements = 0
        self._counting = threading.local()

    def __enter__(self) -> Self:
        self._execute = psycopg.Cursor.execute

        def counted(cursor: Any, *arguments: Any, **options: Any) -> Any:
            if getattr(self._counting, "on", False):
                self.statements += 1
            return self._execute(cursor, *arguments, **options)

        psycopg.Cursor.execute = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        psycopg.Cursor.execute = self._execute  # type: ignore[method-assign]

    def start(self) -> None:
        """Count the calling thread from now on."""
        self._counting.on = True
