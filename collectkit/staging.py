"""Rows on their way into a table: a temporary table of the same types, filled by COPY, in flat memory however many."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import peewee
import psycopg
from psycopg import sql

from collectkit.copying import copy_rows
from collectkit.errors import LoadError
from collectkit.reasons import without_value
from collectkit.rows import Row, shape
from collectkit.target import Field, Target

# One for each load of a transaction.
_NAME: Final = "collectkit_stage_{}"
_PLACE: Final = re.compile(r"^COPY collectkit_stage_\d+, \S+ (\d+)(?:, \S+ (.+?):)?", re.MULTILINE)
_LONGEST_REASON: Final = 200
# Not a name that a model's column could have.
NUMBER: Final = sql.Identifier("row number")
# Below this the planner's guesses about a table without statistics are good enough.
_MANY: Final = 1000
# Until the transaction ends: room for joins of this many rows without a detour over the disk, and a sample of them that
# is rough enough to cost nothing.
_PLAN_FOR_MANY: Final = """
SELECT set_config('default_statistics_target', '10', true),
       set_config('work_mem', greatest(pg_size_bytes(current_setting('work_mem')) / 1024, 32768)::text, true)
"""
_NO_ROW: Final = object()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """The rows of one load in a temporary table that ends with the transaction.

    Attributes:
        table: as statements name it.
        given: the fields that the rows have.
        defaults: the fields that the rows lack and Python has a default for: for new rows alone.
        rows: how many there are, rows that a later one of the same key supersedes among them.
    """

    table: sql.Identifier
    given: tuple[Field, ...] = ()
    defaults: tuple[Field, ...] = ()
    rows: int = 0


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
    table = _table(load)
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        coming = iter(rows)
        first = _first(cursor, coming)
        if first is _NO_ROW:
            return Stage(table)
        shaped = shape(target, first)
        _create(cursor, target, table, (*shaped.given, *shaped.defaults))
        with refusals(target):
            count = copy_rows(cursor, target, table, shaped, chain((first,), coming))
        _plan_for(cursor, target, table, count)
    return Stage(table, shaped.given, shaped.defaults, count)


def stage_query(connection: psycopg.Connection[Any], target: Target, load: int, query: peewee.BaseQuery) -> Stage:
    """Put what a query returns into a new temporary table, by the names of its columns; no row leaves the server.

    Arguments:
        connection, target, load: as in ``stage``.
        query: a Peewee query on the same database.

    Raises:
        LoadError: a column is no field, the key is missing or NULL, or a field would need a default of Python's.
    """
    table = _table(load)
    text, params = query.sql()
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(f"SELECT * FROM ({text}) q LIMIT 0", params, prepare=False)  # noqa: S608 - the author's own
        shaped = shape(target, dict.fromkeys(column.name for column in cursor.description or ()))
        if shaped.defaults:
            raise target.refusal(f"the query has no {shaped.defaults[0].name!r}, whose default only Python knows")
        _create(cursor, target, table, shaped.given)
        into = sql.SQL("{} ({})").format(table, listed(shaped.given)).as_string(cursor)
        with refusals(target):
            cursor.execute(
                f"INSERT INTO {into} SELECT q.* FROM ({text}) q",  # noqa: S608 - as above
                params,
                prepare=False,
            )
        count = cursor.rowcount
        _plan_for(cursor, target, table, count)
    return Stage(table, shaped.given, rows=count)


@contextmanager
def refusals(target: Target) -> Iterator[None]:
    """Turn PostgreSQL's refusal of a value into one line that does not quote it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise target.refusal(_forbidden_by(target, error)) from None
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _refused_by(target, error) from None  # the original quotes the row, and a traceback would show it


def _forbidden_by(target: Target, error: psycopg.Error) -> str:
    """Return what PostgreSQL forbids, and what a row would need where it is a policy that forbids it."""
    said = error.diag.message_primary or type(error).__name__
    if error.diag.source_function != "ExecWithCheckOptions":
        return said  # the role lacks a privilege on the table
    if target.groups:
        return f"{said}; a row needs a group of the run's to read it, and one to write it"
    return f"{said}; the row that a row belongs to must be there, and the run may read and write it"


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
        said = without_value(said)
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


def _table(load: int) -> sql.Identifier:
    return sql.Identifier("pg_temp", _NAME.format(load))


def _create(cursor: psycopg.Cursor[Any], target: Target, table: sql.Identifier, fields: Sequence[Field]) -> None:
    cursor.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT NULL::bigint AS {}, {} FROM {} WITH NO DATA").format(
            table, NUMBER, listed(fields), target.table
        ),
        prepare=False,
    )
    # A NULL is refused here, where COPY knows the row's number, and not later, where nobody does.
    not_null = target.not_null | {f.column_name for f in target.key}
    changes = [
        sql.SQL("ALTER COLUMN {} SET NOT NULL").format(column)
        for column in (NUMBER, *(sql.Identifier(f.column_name) for f in fields if f.column_name in not_null))
    ]
    # Python would take five times as long as PostgreSQL to write the numbers.
    changes.append(sql.SQL("ALTER COLUMN {} ADD GENERATED ALWAYS AS IDENTITY (CACHE 1000)").format(NUMBER))
    cursor.execute(sql.SQL("ALTER TABLE {} {}").format(table, sql.SQL(", ").join(changes)), prepare=False)


def _plan_for(cursor: psycopg.Cursor[Any], target: Target, table: sql.Identifier, count: int) -> None:
    if count >= _MANY:
        cursor.execute(_PLAN_FOR_MANY, prepare=False)
        cursor.execute(sql.SQL("ANALYZE {} ({})").format(table, listed(target.key)), prepare=False)


def drop_superseded(connection: psycopg.Connection[Any], target: Target, stage: Stage, *, quoting: bool) -> int:
    """Keep the last of each key's rows; return how many went.

    Arguments:
        quoting: whether the log may name some of the keys: not where access groups hide them from who reads it.
    """
    key = listed(target.key)
    repeated = sql.SQL("SELECT {}, max({}) AS last FROM {} GROUP BY {} HAVING count(*) > 1").format(
        key, NUMBER, stage.table, key
    )
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        some = cursor.execute(sql.SQL("{} ORDER BY last LIMIT 3").format(repeated), prepare=False).fetchall()
        if not some:
            return 0
        cursor.execute(
            sql.SQL("DELETE FROM {} s USING ({}) d WHERE {} AND s.{} < d.last").format(
                stage.table, repeated, equal_keys(target, "s", "d"), NUMBER
            ),
            prepare=False,
        )
        superseded = cursor.rowcount
    keys = "; ".join(", ".join(str(value)[:60] for value in found[:-1]) for found in some)
    logger.warning(
        "table %s: rows superseded by a later row of the same key: %d%s",
        target.name,
        superseded,
        f", first: {keys}" if quoting else "",
    )
    return superseded


def equal_keys(target: Target, left: str, right: str) -> sql.Composed:
    """Return the condition that two rows, by their tables' aliases, have the same key."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, f.column_name), sql.Identifier(right, f.column_name))
        for f in target.key
    )


def listed(fields: Iterable[Field], of: str | None = None) -> sql.Composed:
    """Return the columns of ``fields``, as a statement lists them; those ``of`` a table, if it is named."""
    table = () if of is None else (of,)
    return sql.SQL(", ").join(sql.Identifier(*table, f.column_name) for f in fields)
