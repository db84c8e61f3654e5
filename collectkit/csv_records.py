"""Records of a CSV file, decoded one by one: columns are known by their names, and a bad record is set aside."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect

from collectkit.rejection import Rejected
from collectkit.textrows import TextRows

# Few enough to stay in the cache of the processor, and below what makes Python look for garbage.
_BLOCK = 200
_PIECE = 1 << 20
# A rule about the whole of a text that means the same within a line: it looks at nothing outside, remembers nothing.
_WHOLE = re.compile(r"\^((?:[^\\^$(\[]|\(\?:|\\[dDsSwW]|\\[^\w]|\[\^?(?:[^\\\[\]]|\\.)+\])+)\\Z")


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
) -> Iterator[TextRows | Sequence[str] | Rejected]:
    """Yield the texts of the records that fit the type, in the order of its fields, and the others as ``Rejected``.

    Raises:
        ValueError: as in ``read_csv``.
    """
    with _opened(file, type, key, comment) as records:
        row: list[str] = []
        while lines := list(islice(records.lines, _BLOCK)):
            row = []
            if texts := records.as_text(lines):
                yield texts
                continue
            for row in records.parted(lines):
                if row:
                    decoded = records.decode(row)
                    yield decoded if isinstance(decoded, Rejected) else records.pick(row)
        records.check_end(row)


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
        lines: of the file, as far as nobody has read them.
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
        self.lines = iter(lines)
        self.rows = csv.reader(self.lines)
        self._type = type
        self._holds_nul = holds_nul
        self._is_ended = is_ended
        self._header = [name.strip() for name in next(self.rows, ())]
        names = [f.encode_name for f in fields]
        self._places = {name: self._header.index(name) for name in names if name in self._header}
        self._needed = [f.encode_name for f in fields if f.required]
        if missing := [name for name in self._needed if name not in self._places]:
            raise ValueError(f"has no column {missing[0]!r}, its header is {','.join(self._header)[:100]!r}")
        # Whole lines are checked where they can be: as the file has them, and by nothing but their types.
        as_it_is = self._header == self._needed and not holds_nul and not hasattr(type, "__post_init__")
        self._line = _line(f.type for f in fields if f.required) if as_it_is else None
        if key is not None and key not in {f.name for f in fields}:
            raise TypeError(f"key={key!r} is no field of {type.__name__} ({', '.join(f.name for f in fields)})")
        self._key = next(((self._places.get(f.encode_name), f.type) for f in fields if f.name == key), (None, None))

    def pick(self, row: Sequence[str]) -> list[str]:
        """Return the texts in the order of the type's fields."""
        return [row[place] for place in self._places.values()]

    def as_text(self, lines: Sequence[str]) -> TextRows | None:
        """Return these lines if each is a record that fits as it stands; checked at once, not told which is not."""
        if self._line is None:
            return None
        text, width, longest = "".join(lines), len(self._header), csv.field_size_limit()
        # With no more commas than that, those which the pattern names are all there are.
        is_plain = text.count(",") == len(lines) * (width - 1) and not any(special in text for special in '"\\\t\r')
        is_short = len(text) <= longest or max(map(len, lines)) <= longest
        if not is_plain or not is_short or not all(map(self._line.fullmatch, lines)):
            return None
        return TextRows(text.replace(",", "\t").encode(), len(lines), width)

    def parted(self, lines: Sequence[str]) -> Iterator[list[str]]:
        """Yield the texts of each record in these lines, and in those after them that the last one goes on in."""
        reader = csv.reader(chain(lines, self.lines))
        for row in reader:
            yield row
            if reader.line_num >= len(lines):
                return

    def decode(self, row: list[str]) -> Any:
        """Return the record as the type, or rejected."""
        if len(row) != len(self._header):
            fault = f"differs from the header in the number of fields: {len(row)}, not {len(self._header)}"
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


def _line(kinds: Iterable[Any]) -> re.Pattern[str] | None:
    """Return what a line has to match whose texts are all of these types; None if one says more than a pattern can."""
    cells = []
    for kind in kinds:
        about = msgspec.inspect.type_info(kind)
        pattern = getattr(about, "pattern", None)
        whole = _WHOLE.fullmatch(r"^[^,]*\Z" if pattern is None else pattern)
        if about != msgspec.inspect.StrType(pattern=pattern) or whole is None:
            return None
        cells.append(whole[1])
    # Atomic: were a cell tried again with a comma more, each further column would double the time for a line that does
    # not fit. An empty line is no record.
    ends = "," * (len(cells) - 1) + "\n"
    return re.compile(r"(?!\n)" + "".join(f"(?>(?:{cell}){end})" for cell, end in zip(cells, ends, strict=False)))


def _as_line(row: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue().removesuffix("\n").encode(errors="replace")
