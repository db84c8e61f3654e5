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
    """

    text: bytes
    count: int
    width: int

    def __iter__(self) -> Iterator[list[str]]:
        return (line.split("\t") for line in self.text.decode().removesuffix("\n").split("\n"))
