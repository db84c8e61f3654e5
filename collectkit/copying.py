"""Rows as COPY takes them: many in one text where the values are simple, value by value otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from itertools import groupby, islice
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from collectkit.conversion import MISFITS, conversion
from collectkit.errors import LoadError
from collectkit.rows import Shape
from collectkit.target import Field, Target
from collectkit.textrows import TextRows

# Few enough to stay in the cache of the processor, and below what makes Python look for garbage.
_BLOCK: Final = 200
# What str() writes as psycopg does; None aside.
_PLAIN: Final = frozenset({type(None), str, int, float, Decimal, date, datetime})


def copy_rows(
    cursor: psycopg.Cursor[Any], target: Target, table: sql.Identifier, shaped: Shape, rows: Iterable[Any]
) -> int:
    """Copy rows into a table as they come, which numbers them itself; return how many there were.

    To look at each value by itself costs more than PostgreSQL does to store it. Where no column needs a conversion,
    and there is none in an array or in JSON, blocks of rows are looked at as a whole, or by columns, and put together
    as COPY reads them.

    Raises:
        LoadError: a value does not fit, found before it is sent.
    """
    number = 1
    columns = sql.SQL(", ").join(sql.Identifier(f.column_name) for f in (*shaped.given, *shaped.defaults))
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, columns)) as copy:
        writer = _Writer(cursor, copy, target, shaped)
        for kind, alike in groupby(rows, type):
            if kind is TextRows:
                for texts in alike:
                    writer.texts(number, texts)
                    number += texts.count
            else:
                while block := list(islice(alike, writer.at_once)):
                    writer.rows(number, block)
                    number += len(block)
    return number - 1


class _Writer:
    """Writes rows in their order: by the block, as text, or value by value where that cannot be.

    Attributes:
        at_once: how many rows it takes best.
    """

    def __init__(self, cursor: psycopg.Cursor[Any], copy: psycopg.Copy, target: Target, shaped: Shape) -> None:
        self._cursor = cursor
        self._copy = copy
        self._target = target
        self._shaped = shaped
        self._fields = (*shaped.given, *shaped.defaults)
        self._passing, self._convert = zip(*(conversion(f) for f in self._fields), strict=True)
        self._plain = [types & _PLAIN for types in self._passing]
        self._makers = [f.default if callable(f.default) else partial(_same, f.default) for f in shaped.defaults]
        self._as_they_are = shaped.in_order and not self._makers and all(str in types for types in self._plain)
        self._by_line = _LineWriter(cursor, copy)
        self._write: Callable[[Sequence[Any]], None] = copy.write_row
        self.at_once = 1
        if all(types > {type(None)} for types in self._plain) and cursor.connection.info.encoding == "utf-8":
            self.at_once = _BLOCK

    def texts(self, number: int, rows: TextRows) -> None:
        """Write rows that are text already, as they are if the table takes them so."""
        if self.at_once > 1 and self._as_they_are and rows.width == len(self._fields):
            self._block(rows.text)
        else:
            self.rows(number, list(rows))

    def rows(self, number: int, rows: Sequence[Any]) -> None:
        """Write rows, the first of which has this number."""
        given = self._shaped.read(number, rows)
        if self._makers:
            given = [(*values, *(make() for make in self._makers)) for values in given]
        if self.at_once > 1 and (text := _as_text(given, self._plain)):
            self._block(text)
            return
        self.at_once = _BLOCK if self._write is self._by_line else 1
        write, passing, convert = self._write, self._passing, self._convert
        for n, values in enumerate(given, number):
            try:
                write([v if type(v) in p else c(v) for v, p, c in zip(values, passing, convert)])  # noqa: B905 - hot
            except MISFITS:
                if misfit := _misfit(self._cursor, self._target, n, zip(self._fields, values, strict=True)):
                    raise misfit from None
                raise

    def _block(self, text: str | bytes) -> None:
        self._copy.write(text)
        # What write_row keeps in its buffer would come after the blocks that follow.
        self._write = self._by_line


def _as_text(rows: Sequence[Sequence[Any]], plain: Sequence[frozenset[type]]) -> str | bytes | None:
    r"""Return the rows as COPY reads them; None if a value is of another type, or holds what has a meaning there."""
    if all(str in types for types in plain) and (text := _joined(rows, len(plain))):
        return text
    columns: list[Iterable[str]] = []
    for column, types in zip(zip(*rows, strict=True), plain, strict=True):
        kinds = set(map(type, column))
        if not kinds <= types:
            return None
        if str in kinds and not _is_plain("".join([value for value in column if type(value) is str])):
            return None
        try:
            columns.append(column if kinds == {str} else ["\\N" if value is None else str(value) for value in column])
        except ValueError:  # an int of more digits than Python writes
            return None
    return "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"


def _joined(rows: Sequence[Sequence[Any]], width: int) -> bytes | None:
    """Return rows of text alone, as a CSV file has them: joined first and then looked at, all at once."""
    try:
        text = ("\n".join(map("\t".join, rows)) + "\n").encode()
    except (TypeError, UnicodeEncodeError):
        return None
    separate = text.count(b"\n") == len(rows) and text.count(b"\t") == len(rows) * (width - 1)
    return None if not separate or b"\\" in text or b"\r" in text or b"\0" in text else text


def _is_plain(text: str) -> bool:
    """Whether COPY takes the text as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return not any(special in text for special in "\\\t\n\r\0")


class _LineWriter:
    """Writes single rows between blocks, in their place."""

    def __init__(self, cursor: psycopg.Cursor[Any], copy: psycopg.Copy) -> None:
        self._transformer = Transformer(cursor)
        self._copy = copy

    def __call__(self, row: Sequence[Any]) -> None:
        self._copy.write(b"\t".join(map(self._written, row)) + b"\n")

    def _written(self, value: Any) -> bytes:
        dumped = None if value is None else self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        if dumped is None:
            return b"\\N"
        escaped = bytes(dumped).replace(b"\\", b"\\\\").replace(b"\t", b"\\t")
        return escaped.replace(b"\n", b"\\n").replace(b"\r", b"\\r")


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


def _same(value: Any) -> Any:
    return value
