"""What a row may be, and which of a model's fields it gives: the first row of a load decides for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec

from collectkit.target import Field, Target
from collectkit.textrows import TextRows

Row: TypeAlias = Mapping[str, object] | Sequence[object] | msgspec.Struct
Reader: TypeAlias = Callable[[int, Sequence[Any]], Sequence[Sequence[Any]]]


class Shape(NamedTuple):
    """What the rows of one load have in common.

    Attributes:
        given: the fields whose values a row holds.
        defaults: the other fields that Python has a default for; it goes into new rows alone.
        read: takes the values of ``given`` out of rows, with the number of the first for the error if one differs.
        in_order: whether a row is a sequence of these values, as it stands.
    """

    given: tuple[Field, ...]
    defaults: tuple[Field, ...]
    read: Reader
    in_order: bool


def shape(target: Target, first: object) -> Shape:
    """Return what the first row tells of all of them.

    Raises:
        LoadError: it is no row, names an unknown field, or lacks the key.
    """
    if isinstance(first, TextRows):
        first = next(iter(first))
    given, read = _reader(target, first)
    # By name throughout: fields of Peewee build a condition when they are compared.
    names = {f.name for f in given}
    for field in target.key:
        if field.name not in names:
            raise target.refusal(f"the rows have no {field.name!r}, which is the key")
    defaults = tuple(f for f in target.declared() if f.default is not None and f.name not in names)
    return Shape(given, defaults, read, in_order=not isinstance(first, (Mapping, msgspec.Struct)))


def _reader(target: Target, first: object) -> tuple[tuple[Field, ...], Reader]:
    """Return the fields that rows like the first one give, and what takes their values out of a row."""
    if isinstance(first, Mapping):
        return _fields(target, first), _mapping_reader(target, tuple(first))
    if isinstance(first, msgspec.Struct):
        return _fields(target, first.__struct_fields__), _struct_reader(target, type(first))
    if isinstance(first, Sequence) and not isinstance(first, (str, bytes)):
        given = tuple(target.declared())
        return given, _sequence_reader(target, len(given))
    raise target.refusal(f"is a {type(first).__name__}: give mappings, sequences or msgspec Structs", 1)


def _fields(target: Target, names: Iterable[str]) -> tuple[Field, ...]:
    for name in names:
        if name not in target.fields:
            known = ", ".join(target.fields)
            raise target.refusal(f"has the key {str(name)[:60]!r}, which is no field of the model ({known})", 1)
    return tuple(target.fields[name] for name in names)


def _mapping_reader(target: Target, names: tuple[str, ...]) -> Reader:
    take = itemgetter(*names) if len(names) > 1 else lambda row: tuple(row[name] for name in names)

    def read(number: int, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        try:
            values: list[Sequence[Any]] = list(map(take, rows))
        except (KeyError, TypeError, IndexError):
            values = []
        if values and set(map(len, rows)) == {len(names)}:
            return values
        faults = ((n, _fault_of_mapping(row, names)) for n, row in enumerate(rows, number))
        n, fault = next(((n, fault) for n, fault in faults if fault), (number, "cannot be read"))
        raise target.refusal(fault, n)

    return read


def _fault_of_mapping(row: Any, names: Sequence[str]) -> str | None:
    if not isinstance(row, Mapping):
        return f"is a {type(row).__name__}, where the first row is a mapping"
    for key in row:
        if key not in names:
            return f"has the key {str(key)[:60]!r}, which the first row has not"
    return next((f"has no key {name!r}, which the first row has" for name in names if name not in row), None)


def _struct_reader(target: Target, kind: type[msgspec.Struct]) -> Reader:
    names = kind.__struct_fields__
    take: Callable[[Any], Any] = (
        attrgetter(*names) if len(names) > 1 else lambda row: tuple(getattr(row, name) for name in names)
    )

    def read(number: int, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        if set(map(type, rows)) != {kind}:
            n, other = next((n, type(row)) for n, row in enumerate(rows, number) if type(row) is not kind)
            raise target.refusal(f"is a {other.__name__}, where the first row is a {kind.__name__}", n)
        return list(map(take, rows))

    return read


def _sequence_reader(target: Target, width: int) -> Reader:
    def read(number: int, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        if not set(map(type, rows)) <= {list, tuple}:
            for n, row in enumerate(rows, number):
                if isinstance(row, (str, bytes)) or not isinstance(row, Sequence):
                    raise target.refusal(f"is a {type(row).__name__}, where the first row is a sequence", n)
        if set(map(len, rows)) != {width}:
            n, found = next((n, len(row)) for n, row in enumerate(rows, number) if len(row) != width)
            names = ", ".join(f.name for f in target.declared())
            reason = f"differs from the model in the number of values: {found}, not {width} ({names})"
            raise target.refusal(reason, n)
        return rows

    return read
