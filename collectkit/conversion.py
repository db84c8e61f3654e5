"""What a value becomes on its way to COPY: what its Peewee field makes of it, at no cost where that changes nothing.

A field converts each value by a call. Most values need none, and for hundreds of thousands of rows the calls cost more
than PostgreSQL does; so the conversion of a column is prepared once, together with the types that pass as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
import peewee
import psycopg
from playhouse import postgres_ext

Convert: TypeAlias = Callable[[Any], object]

MISFITS = (psycopg.DataError, psycopg.ProgrammingError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What a conversion, or psycopg when it writes the value out, raises for a value that does not fit."""

# Text passes everywhere: PostgreSQL judges what a CSV file says better than Peewee does, to whom bool("false") is True
# and the decimal "" is 0.
_PASSING: dict[type[peewee.Field], frozenset[type]] = {
    peewee.IntegerField: frozenset({int, str}),
    peewee.FloatField: frozenset({float, int, str}),
    peewee.DecimalField: frozenset({Decimal, int, float, str}),
    peewee.CharField: frozenset({str}),
    peewee.TextField: frozenset({str}),
    peewee.BooleanField: frozenset({bool, str}),
    peewee.BlobField: frozenset({bytes}),
    peewee.UUIDField: frozenset({UUID, str}),
    peewee.DateTimeField: frozenset({datetime, str}),
    peewee.DateField: frozenset({date, str}),
    peewee.TimeField: frozenset({time, str}),
    peewee.Field: frozenset({str, int, float, bool, bytes, Decimal, datetime, date, time, timedelta, UUID}),
}
_NULL = frozenset({type(None)})
_encode_json = msgspec.json.Encoder(decimal_format="number").encode


class Conversion(NamedTuple):
    """How the values of one column are made ready.

    Attributes:
        passing: the exact types whose values go to COPY as they are.
        convert: what all others go through; may raise one of ``MISFITS``.
    """

    passing: frozenset[type]
    convert: Convert

    def ready(self, value: Any) -> Any:
        """Return the value as psycopg is to write it out."""
        return value if type(value) in self.passing else self.convert(value)


def conversion(field: peewee.Field) -> Conversion:
    """Return how values of ``field`` are converted: as Peewee would, Enum members by their value."""
    if isinstance(field, (peewee.JSONField, postgres_ext.JSONField)):
        return Conversion(_NULL, _json(field))
    if isinstance(field, postgres_ext.ArrayField):
        return Conversion(_NULL, lambda value: field.db_value(_items(value)))
    passing = _passing(field)

    def convert(value: Any) -> object:
        if isinstance(value, Enum):
            value = value.value
            if type(value) in passing:
                return value
        return field.db_value(value)

    return Conversion(passing, convert)


def _passing(field: peewee.Field) -> frozenset[type]:
    stored: Any = field
    while isinstance(stored, peewee.ForeignKeyField):
        stored = stored.rel_field
    kind = type(stored)
    known: Any = next(base for base in kind.__mro__ if base in _PASSING)
    # A subclass that converts in its own way (a timestamp kept as an integer, an author's own field) is always asked.
    if kind.db_value is not known.db_value or kind.adapt is not known.adapt or getattr(stored, "auto_round", False):
        return _NULL
    if getattr(stored, "formats", None) is not getattr(known, "formats", None):
        return (_PASSING[known] - {str}) | _NULL
    return _PASSING[known] | _NULL


def _json(field: Any) -> Convert:
    dumps = field._dumps  # noqa: SLF001 - the only place where Peewee keeps an author's own encoder
    if dumps not in {None, json.dumps}:
        return field.db_value  # type: ignore[no-any-return]

    def convert(value: Any) -> object:
        try:
            return _encode_json(value).decode()  # ten times faster than json.dumps, and takes msgspec.Raw and Structs
        except (TypeError, ValueError, OverflowError):
            return field.db_value(value)  # an int of more than 64 bits, for one, json.dumps can write

    return convert


def _items(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)):
        raise TypeError("text is not an array")
    if isinstance(value, (set, frozenset)):
        value = sorted(value)  # a set has another order in the next process: the row would look changed
    return [
        _items(item) if isinstance(item, (list, tuple)) else item.value if isinstance(item, Enum) else item
        for item in value
    ]
