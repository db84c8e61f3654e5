"""Rows that are text already, many in one: no value becomes an object of Python's on its way into the table."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class TextRows(msgspec.Struct, frozen=True):
    r"""Some rows as COPY reads them: a tab between values, a newline after each row, and nothing that needs a ``\``.

    They may stand among the rows of any load, in the place of as many sequences of text. Iterated over, they are these
    sequences.

    Attributes:
        text: of all rows, in UTF-8.
        count: the number of rows.
        width: the number of values in each.

    Raises:
        ValueError: the text is not that of so many rows of so many values.
    """

    text: bytes
    count: int
    width: int

    def __post_init__(self) -> None:
        ends, tabs = self.text.count(b"\n"), self.text.count(b"\t")
        is_plain = self.text.endswith(b"\n") and not any(special in self.text for special in (b"\\", b"\r", b"\0"))
        if not is_plain or ends != self.count or tabs != self.count * (self.width - 1):
            raise ValueError(
                f"this text is not {self.count} rows of {self.width} values, as COPY reads them as they are"
            )

    def __iter__(self) -> Iterator[list[str]]:
        return (line.split("\t") for line in self.text.decode().removesuffix("\n").split("\n"))
