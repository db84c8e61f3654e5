"""Records of a CSV file, decoded one by one: columns are known by their names, and a bad record is set aside."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect

from collectkit.rejection import Rejected

_BLOCK = 200
_PIECE = 1 << 20


def read_csv(file: Path, type: type[Any], key: str | None, comment: str | None) -> Iterator[Any]:  # noqa: A002 - as in msgspec
    """Yield each record as a ``type``, or as a ``Rejected``.

    Raises:
        ValueError: in words that follow "the source ...": it is no CSV, or its header lacks a column.
        TypeError: ``type`` has no field ``key``.
    """
    with _opened(file, type, key, comment) as records:
        row: list[str] = []
        for row in records.rows:
            if row:
                yield records.decode(row)
        records.check_end(row)


def read_csv_texts(
    file: Path,
    type: type[Any],  # noqa: A002 - as in msgspec
    key: str | None,
    comment: str | None,
) -> Iterator[Sequence[str] | Rejected]:
    """Yield the texts of each record, in the order of the type's fields, if they fit it; else a ``Rejected``.

    Raises:
        ValueError: as in ``read_csv``.
    """
    with _opened(file, type, key, comment) as records:
        last: list[str] = []
        while block := list(islice(records.rows, _BLOCK)):
            last = block[-1]
            if records.fit(block):
                yield from block
            else:
                for row in filter(None, block):
                    decoded = records.decode(row)
                    yield decoded if isinstance(decoded, Rejected) else records.pick(row)
        records.check_end(last)


@contextmanager
def _opened(file: Path, type: type[Any], key: str | None, comment: str | None) -> Iterator[_Records]:  # noqa: A002 - as above
    holds_nul, end = False, b""
    with file.open("rb") as plain:
        for end in iter(partial(plain.read, _PIECE), b""):
            holds_nul = holds_nul or b"\0" in end
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        below = lines if comment is None else dropwhile(lambda line: line.startswith(comment), lines)
        try:
            yield _Records(below, type, key, holds_nul=holds_nul, is_ended=end.endswith((b"\n", b"\r")))
        except csv.Error as error:
            raise ValueError(f"sent CSV that cannot be read: {error}") from None


class _Records:
    """The records below the header; how they become what the type says.

    Attributes:
        rows: the texts of each record, in the order of the header.
    """

    def __init__(
        self,
        lines: Iterable[str],
        type: type[Any],  # noqa: A002 - as above
        key: str | None,
        *,
        holds_nul: bool,
        is_ended: bool,
    ) -> None:
        fields = msgspec.structs.fields(type)
        self.rows = csv.reader(lines)
        self._type = type
        self._holds_nul = holds_nul
        self._is_ended = is_ended
        self._header = [name.strip() for name in next(self.rows, ())]
        names = [f.encode_name for f in fields]
        self._places = {name: self._header.index(name) for name in names if name in self._header}
        self._needed = [f.encode_name for f in fields if f.required]
        if missing := [name for name in self._needed if name not in self._places]:
            raise ValueError(f"has no column {missing[0]!r}, its header is {','.join(self._header)[:100]!r}")
        # Whole columns are checked where they can be: as the file has them, and by nothing but their types.
        self._in_columns = self._header == self._needed and not holds_nul and not hasattr(type, "__post_init__")
        self._checks = [_check(f.type) for f in fields]
        if key is not None and key not in {f.name for f in fields}:
            raise TypeError(f"key={key!r} is no field of {type.__name__} ({', '.join(f.name for f in fields)})")
        self._key = next(((self._places.get(f.encode_name), f.type) for f in fields if f.name == key), (None, None))

    def pick(self, row: Sequence[str]) -> list[str]:
        """Return the texts in the order of the type's fields."""
        return [row[place] for place in self._places.values()]

    def fit(self, rows: list[list[str]]) -> bool:
        """Whether all of these fit the type as they stand: checked by columns, at once, and not told which does not."""
        return (
            self._in_columns
            and set(map(len, rows)) == {len(self._header)}
            and all(check(column) for check, column in zip(self._checks, zip(*rows, strict=True), strict=True))
        )

    def decode(self, row: list[str]) -> Any:
        """Return the record as the type, or rejected."""
        if len(row) != len(self._header):
            fault = f"does not have as many fields as the header: {len(row)}, not {len(self._header)}"
        elif self._holds_nul and "\0" in "".join(row):
            fault = "holds a NUL character, which PostgreSQL cannot store"
        else:
            texts = ((name, row[place]) for name, place in self._places.items())
            record = {name: text for name, text in texts if text or name in self._needed}
            try:
                return msgspec.convert(record, self._type, strict=False)
            except msgspec.ValidationError as error:
                fault = str(error)
        return Rejected(_as_line(row), fault, self._key_of(row))

    def check_end(self, last: list[str]) -> None:
        """Return if the last record of the file is whole.

        Raises:
            ValueError: it cannot be read, and the file breaks off in it: in its line, or within a quotation.
        """
        breaks_off = last and (not self._is_ended or last[-1].endswith(("\n", "\r")))
        if breaks_off and isinstance(self.decode(last), Rejected):
            raise ValueError(f"breaks off in the middle of a record, in its field {len(last)}")

    def _key_of(self, row: Sequence[str]) -> object:
        place, kind = self._key
        try:
            return None if place is None else msgspec.convert(row[place], kind, strict=False)
        except (msgspec.ValidationError, IndexError):
            return None


def _check(kind: Any) -> Callable[[Sequence[str]], bool]:
    """Return what says whether all texts of a column fit its type."""
    about = msgspec.inspect.type_info(kind)
    if about == msgspec.inspect.StrType(pattern=getattr(about, "pattern", None)):
        if about.pattern is None:
            return lambda _texts: True
        found = re.compile(about.pattern).search
        return lambda texts: all(map(found, texts))  # at a third of what msgspec takes

    def fits(texts: Sequence[str]) -> bool:
        try:
            msgspec.convert(texts, list[kind], strict=False)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def _as_line(row: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue().removesuffix("\n").encode(errors="replace")
