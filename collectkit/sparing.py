"""The keys of rows that a snapshot may not remove, because it lists them in records that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from collectkit.conversion import MISFITS, conversion
from collectkit.target import Target

_NAME: Final = "collectkit_spared_{}"


def spare(
    connection: psycopg.Connection[Any], target: Target, load: int, keys: Iterable[object]
) -> sql.Identifier | None:
    """Put the keys into a temporary table with the key's columns; None if there are none.

    They come out of records that are broken, so one that cannot be a key of the table is passed over.

    Arguments:
        connection: with a transaction open; the table ends with it.
        target: the table that is to be replaced.
        load: the number of this load within the transaction.
        keys: a value each, or a sequence of values if the key has several fields.
    """
    written = list(_written(connection, target, keys))
    if not written:
        return None
    name = _NAME.format(load)
    given = [sql.Identifier(f"given {n}") for n in range(len(target.key))]
    types = [sql.Identifier(target.types[f.column_name]) for f in target.key]
    connection.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM unnest({}) u ({}) WHERE {}").format(
            sql.Identifier(name),
            sql.SQL(", ").join(
                sql.SQL("{}::{} AS {}").format(text, kind, sql.Identifier(f.column_name))
                for text, kind, f in zip(given, types, target.key, strict=True)
            ),
            sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(given)),
            sql.SQL(", ").join(given),
            sql.SQL(" AND ").join(
                sql.SQL("pg_input_is_valid({}, {})").format(text, sql.Literal(kind.as_string(connection)))
                for text, kind in zip(given, types, strict=True)
            ),
        ),
        [list(column) for column in zip(*written, strict=True)],
        prepare=False,
    )
    return sql.Identifier("pg_temp", name)


def _written(connection: psycopg.Connection[Any], target: Target, keys: Iterable[object]) -> Iterator[list[str]]:
    """Write each key out as COPY would write it."""
    transformer = Transformer(connection)
    conversions = [conversion(f) for f in target.key]
    for key in keys:
        parts = [key] if len(conversions) == 1 else key if isinstance(key, Sequence) else []
        if len(parts) != len(conversions) or None in parts:
            continue
        try:
            ready = [each.ready(part) for each, part in zip(conversions, parts, strict=True)]
            dumped = [transformer.get_dumper(part, PyFormat.TEXT).dump(part) for part in ready]
            yield [bytes(part or b"").decode() for part in dumped]
        except MISFITS:
            continue
