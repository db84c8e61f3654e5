"""A table beside the rows that go into it: the one place where a statement over both is put together and sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from collectkit.staging import NUMBER, Stage, equal_keys
from collectkit.target import Target


@dataclass(frozen=True, slots=True)
class Pairing:
    """A table and a stage on one connection; statements call a row of the one ``t``, of the other ``s``.

    Attributes:
        connection: with the transaction open.
        target: the table.
        stage: the rows of the load.
    """

    connection: psycopg.Connection[Any]
    target: Target
    stage: Stage

    @property
    def live(self) -> sql.Composable:
        """The condition that a row of the table is not marked as gone."""
        mark = self.target.gone_at
        return sql.SQL("true") if mark is None else sql.SQL("t.{} IS NULL").format(sql.Identifier(mark.column_name))

    def run(self, statement: LiteralString, **parts: sql.Composable) -> psycopg.Cursor[tuple[Any, ...]]:
        """Execute a statement in which ``same`` is the condition that ``t`` and ``s`` have the same key."""
        query = sql.SQL(statement).format(
            table=self.target.table,
            stage=self.stage.table,
            same=equal_keys(self.target, "t", "s"),
            number=NUMBER,
            **parts,
        )
        cursor = self.connection.cursor(row_factory=psycopg.rows.tuple_row)
        # Its text holds this load's own table: it will not come again, so a prepared plan would never be used.
        return cursor.execute(query, prepare=False)
