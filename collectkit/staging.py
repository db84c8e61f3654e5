"""Rows on their way into a table: a temporary table of the same types, filled by COPY, in flat memory however many."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from collectkit.conversion import MISFITS, conversion
from collectkit.errors import LoadError
from collectkit.rows import Row, Shape, shape
from collectkit.target import Field, Target

# One for each load of a transaction.
_NAME: Final = "collectkit_stage_{}"
_PLACE: Final = re.compile(r"^COPY collectkit_stage_\d+, \S+ (\d+)(?:, \S+ (.+?):)?", re.MULTILINE)
# A server may speak another language, with quotation marks of its own.
_QUOTED: Final = re.compile(r'\W*["«»„“”].*["«»„“”]', re.DOTALL)
_LONGEST_REASON: Final = 200
# Not a name that a model's column could have.
NUMBER: Final = sql.Identifier("row number")
# Below this the planner's guesses about a table without statistics are good enough.
_ANALYZE_FROM: Final = 1000
_NO_ROW: Final = object()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """The rows of one load, each key once, in a temporary table that ends with the transaction.

    Attributes:
        table: as statements name it.
        given: the fields that the rows have.
        defaults: the fields that the rows lack and Python has a default for: for new rows alone.
        rows: how many there are.
        superseded: how many more the source gave, each followed by another of the same key.
    """

    table: sql.Identifier
    given: tuple[Field, ...] = ()
    defaults: tuple[Field, ...] = ()
    rows: int = 0
    superseded: int = 0


def stage(connection: psycopg.Connection[Any], target: Target, load: int, rows: Iterable[Row]) -> Stage:
    """Copy rows into a new temporary table, one at a time as the source gives them.

    Arguments:
        connection: with a transaction open; the table ends with it.
        target: where the rows will go.
        load: the number of this load within the transaction.
        rows: what ``Batch.upsert`` takes.

    Raises:
        LoadError: a row does not fit; its number and the column are named, never its content.
    """
    name = _NAME.format(load)
    table = sql.Identifier("pg_temp", name)
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        coming = iter(rows)
        first = _first(cursor, coming)
        if first is _NO_ROW:
            return Stage(table)
        shaped = shape(target, first)
        _create(cursor, target, name, (*shaped.given, *shaped.defaults))
        with refusals(target):
            count = _copy(cursor, target, table, shaped, chain((first,), coming))
        if count >= _ANALYZE_FROM:
            cursor.execute(sql.SQL("ANALYZE {} ({})").format(table, listed(target.key)), prepare=False)
        superseded = _drop_superseded(cursor, target, table)
    return Stage(table, shaped.given, shaped.defaults, count - superseded, superseded)


@contextmanager
def refusals(target: Target) -> Iterator[None]:
    """Turn PostgreSQL's refusal of a value into one line that does not quote it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        said = error.diag.message_primary or type(error).__name__
        raise target.refusal(f"{said}; a row needs a group of the run's to read it, and one to write it") from None
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _refused_by(target, error) from None  # the original quotes the row, and a traceback would show it


def _refused_by(target: Target, error: psycopg.Error) -> LoadError:
    """Return PostgreSQL's refusal of a value without the value: it may be a secret, and the message is kept.

    What it puts between quotation marks is the value where a value is at fault, and only names where a constraint
    is broken. Detail and context quote whole rows.
    """
    diag = error.diag
    said = diag.message_primary or type(error).__name__
    if isinstance(error, psycopg.errors.NotNullViolation):
        said = "is NULL, which the column does not take"
    elif isinstance(error, psycopg.errors.UntranslatableCharacter):
        said = "holds a NUL character, which PostgreSQL cannot store"
    elif not isinstance(error, psycopg.IntegrityError):
        said = _QUOTED.sub("", said)
    place = _PLACE.search(diag.context or "")
    row, column = place.groups() if place else (None, None)
    return target.refusal(said[:_LONGEST_REASON], int(row) if row else None, column or diag.column_name)


def _first(cursor: psycopg.Cursor[Any], rows: Iterator[Row]) -> Any:
    # The source may be slow to give its first row, and the server ends a session that idles in a transaction. From then
    # on it waits inside COPY, which does not count as idle.
    limit = "idle_in_transaction_session_timeout"
    before = cursor.execute("SELECT current_setting(%(s)s), set_config(%(s)s, '0', true)", {"s": limit}).fetchone()
    first = next(rows, _NO_ROW)
    cursor.execute("SELECT set_config(%s, %s, true)", (limit, before and before[0]))
    return first


def _create(cursor: psycopg.Cursor[Any], target: Target, name: str, fields: Sequence[Field]) -> None:
    cursor.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT NULL::bigint AS {}, {} FROM {} WITH NO DATA").format(
            sql.Identifier(name), NUMBER, listed(fields), target.table
        ),
        prepare=False,
    )
    # A NULL is refused here, where COPY knows the row's number, and not later, where nobody does.
    not_null = target.not_null | {f.column_name for f in target.key}
    cursor.execute(
        sql.SQL("ALTER TABLE {} {}").format(
            sql.Identifier("pg_temp", name),
            sql.SQL(", ").join(
                sql.SQL("ALTER COLUMN {} SET NOT NULL").format(sql.Identifier(f.column_name))
                for f in fields
                if f.column_name in not_null
            ),
        ),
        prepare=False,
    )


def _copy(
    cursor: psycopg.Cursor[Any], target: Target, table: sql.Identifier, shaped: Shape, rows: Iterable[Row]
) -> int:
    read = shaped.read
    fields = (*shaped.given, *shaped.defaults)
    passing, convert = zip(*(conversion(f) for f in fields), strict=True)
    makers = [f.default if callable(f.default) else partial(_same, f.default) for f in shaped.defaults]
    number = 0
    with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as copy:
        write = copy.write_row
        for number, row in enumerate(rows, 1):
            values = read(number, row)
            if makers:
                values = (*values, *(make() for make in makers))
            try:
                write((number, *[v if type(v) in p else c(v) for v, p, c in zip(values, passing, convert)]))  # noqa: B905 - hot
            except MISFITS:
                if misfit := _misfit(cursor, target, number, zip(fields, values, strict=True)):
                    raise misfit from None
                raise
    return number


def _misfit(
    cursor: psycopg.Cursor[Any], target: Target, row: int, values: Iterable[tuple[Field, Any]]
) -> LoadError | None:
    """Return the error that names the one of ``values`` that cannot be written, found by trying each again."""
    transformer = Transformer(cursor)
    for field, value in values:
        try:
            ready = conversion(field).ready(value)
            if ready is not None:
                transformer.get_dumper(ready, PyFormat.TEXT).dump(ready)
        except UnicodeError:
            reason = "holds text that is not valid Unicode"
        except MISFITS as error:
            nul = isinstance(error, psycopg.DataError) and "NUL" in str(error)
            reason = (
                "holds a NUL character, which PostgreSQL cannot store"
                if nul
                else f"a value of type {type(value).__name__} does not fit a {type(field).__name__}"
            )
        else:
            continue
        return target.refusal(reason, row, field.column_name)
    return None


def _drop_superseded(cursor: psycopg.Cursor[Any], target: Target, table: sql.Identifier) -> int:
    """Keep the last of each key's rows; return how many went."""
    key = listed(target.key)
    repeated = sql.SQL("SELECT {}, max({}) AS last FROM {} GROUP BY {} HAVING count(*) > 1").format(
        key, NUMBER, table, key
    )
    some = cursor.execute(sql.SQL("{} ORDER BY last LIMIT 3").format(repeated), prepare=False).fetchall()
    if not some:
        return 0
    cursor.execute(
        sql.SQL("DELETE FROM {} s USING ({}) d WHERE {} AND s.{} < d.last").format(
            table, repeated, equal_keys(target, "s", "d"), NUMBER
        ),
        prepare=False,
    )
    logger.warning(
        "table %s: %d rows were superseded by a later row of the same key, first: %s",
        target.name,
        cursor.rowcount,
        "; ".join(", ".join(str(value)[:60] for value in found[:-1]) for found in some),
    )
    return cursor.rowcount


def equal_keys(target: Target, left: str, right: str) -> sql.Composed:
    """Return the condition that two rows, by their tables' aliases, have the same key."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, f.column_name), sql.Identifier(right, f.column_name))
        for f in target.key
    )


def listed(fields: Iterable[Field]) -> sql.Composed:
    """Return the columns of ``fields``, as a statement lists them."""
    return sql.SQL(", ").join(sql.Identifier(f.column_name) for f in fields)


def _same(value: Any) -> Any:
    return value
