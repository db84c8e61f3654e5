"""Removing rows by their keys, for sources that say themselves what they no longer have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString

import peewee
import psycopg
from psycopg import sql

from collectkit.database import database
from collectkit.errors import SnapshotRefused
from collectkit.policies import may
from collectkit.sparing import spare
from collectkit.staging import equal_keys, refusals
from collectkit.target import Target


def remove_rows(
    connection: psycopg.Connection[Any],
    model: type[peewee.Model],
    target: Target,
    load: int,
    keys: Iterable[object],
    *,
    max_shrink: float,
) -> int:
    """Delete the rows with these keys, or mark them as gone where the model has ``gone_at``; return how many.

    Rows that the access groups in force may not write count as not there.

    Arguments:
        connection: with a transaction open.
        model: whose table it is.
        target: the table.
        load: the number of this load within the transaction.
        keys: a value each, or a sequence of values if the key has several fields; one that no row has is passed over.
        max_shrink: the largest part of the live rows that may go, 0 to 1.

    Raises:
        SnapshotRefused: more would go. Nothing was written.
    """
    listed = spare(connection, target, load, keys)
    if listed is None:
        return 0
    database.follow_scope()
    parts: dict[str, sql.Composable] = {
        "table": target.table,
        "listed": sql.SQL("EXISTS (SELECT FROM {} k WHERE {})").format(listed, equal_keys(target, "k", "t")),
        "ours": sql.SQL(may("write", model, "t") or "true"),
        "live": sql.SQL("true"),
    }
    statement: LiteralString = "DELETE FROM {table} t WHERE {listed}"
    if target.gone_at is not None:
        parts["mark"] = sql.Identifier(target.gone_at.column_name)
        parts["live"] = sql.SQL("t.{mark} IS NULL").format(mark=parts["mark"])
        statement = "UPDATE {table} t SET {mark} = clock_timestamp() WHERE {live} AND {listed}"

    def run(statement: LiteralString) -> psycopg.Cursor[tuple[Any, ...]]:
        cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
        return cursor.execute(sql.SQL(statement).format(**parts), prepare=False)

    with refusals(target):
        counted = run(
            "SELECT count(*), count(*) FILTER (WHERE {listed}) FROM {table} t WHERE {live} AND ({ours})"
        ).fetchone()
        live, going = counted or (0, 0)
        if going and going / live > max_shrink:
            raise SnapshotRefused(
                target.name,
                f"{going:,} of {live:,} rows would go, which is more than max_shrink={max_shrink:g} allows: look at "
                "the source; if it is right, remove them once with a larger max_shrink",
            )
        return run(statement).rowcount if going else 0
