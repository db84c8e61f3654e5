"""What a fetch brought: a file of plain bytes, or the news that there is none, and the ways to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import msgspec

from collectkit.archive import read_members, read_names
from collectkit.csv_records import read_csv, read_csv_texts
from collectkit.errors import FetchError
from collectkit.records import reason_of, without_halves
from collectkit.rejection import Rejected
from collectkit.textrows import TextRows

MIB = 1 << 20

T = TypeVar("T")


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a fetch: a file of plain bytes, or nothing new.

    Attributes:
        url: the address, without what may be secret in it.
        unchanged: the source said 304, or sent the same bytes as last time: "checked, unchanged".
        sha256: digest of the plain bytes.
        size: number of the plain bytes; 0 after a 304.
        meta: for the ``meta_attr`` of the checkpoint that commits the rows, or of the ``store`` that notes "unchanged";
            so the validators of rows that were never committed are never sent.
        limit: of the bytes that an archive may unpack to.
    """

    url: str
    unchanged: bool
    sha256: str
    size: int
    meta: Mapping[str, Any]
    file: Path | None
    limit: int = 1024 * MIB

    @property
    def path(self) -> Path:
        """The plain bytes, gunzipped if they came as gzip; the file is gone at the end of the ``with``."""
        if self.file is None:
            raise ValueError(f"{self.url} is unchanged, nothing was downloaded: look at `unchanged` first")
        return self.file

    def open(self) -> BinaryIO:
        """Open the plain bytes for reading."""
        return self.path.open("rb")

    def json(self, type: type[T]) -> T:  # noqa: A002 - as in msgspec
        """Decode the bytes into the type, a msgspec Struct as a rule.

        Raises:
            FetchError: the bytes are no JSON or do not fit the type; the message names the field.
        """
        body = self.path.read_bytes()
        try:
            return msgspec.json.decode(without_halves(body), type=type)
        except msgspec.ValidationError as error:
            raise self.refused(f"does not have the form that is known: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            begin = body[:24].decode(errors="replace")
            raise self.refused(f"is not JSON, it begins with {begin!r}: {reason_of(error)}") from None

    def members(self, suffix: str) -> Iterator[tuple[str, bytes | Rejected]]:
        """Read a ZIP archive: name and content of each file whose name ends in ``suffix``, one at a time as asked for.

        One of more than 16 MiB is not unpacked, and comes out rejected.

        Raises:
            FetchError: it is no archive or a broken one, or unpacks to more than the limit of the fetch.
        """
        yield from self._checked(read_members(self.path, suffix, self.limit))

    def names(self, suffix: str) -> Iterator[str]:
        """Read which files a ZIP archive has whose names end in ``suffix``; none is unpacked.

        Raises:
            FetchError: as ``members``.
        """
        yield from self._checked(read_names(self.path, suffix, self.limit))

    def text(self) -> TextIO:
        """Open the plain bytes as text in UTF-8, line by line; what is none becomes U+FFFD."""
        return self.path.open(encoding="utf-8-sig", errors="replace", newline="")

    def csv(
        self,
        type: type[T],  # noqa: A002 - as in msgspec
        *,
        key: str | None = None,
        comment: str | None = None,
    ) -> Iterator[T | Rejected]:
        """Decode the records of a CSV file one by one, as they are asked for; one that does not fit comes out rejected.

        Columns are found by their names in the header, wherever they stand; those that the type does not have are
        passed over. An empty field takes the default of its field. Bytes that are not UTF-8 become U+FFFD.

        Arguments:
            type: a msgspec Struct whose fields, as they are encoded, are names of columns.
            key: the field that is the row's key, so that ``replace`` leaves the row of a rejected record alone.
            comment: lines before the header that begin so are passed over.

        Raises:
            FetchError: the file is no CSV, or its header lacks a column.
        """
        yield from self._checked(read_csv(self.path, type, key, comment))

    def csv_texts(
        self,
        type: type[Any],  # noqa: A002 - as in msgspec
        *,
        key: str | None = None,
        comment: str | None = None,
    ) -> Iterator[TextRows | Sequence[str] | Rejected]:
        r"""Check the records of a CSV file as ``csv`` does, and give their texts in the order of the type's fields.

        For hundreds of thousands of rows: an exact number stays as it is written, and nothing is converted to and fro
        on its way to PostgreSQL. Where the file has the columns of the type, in their order and no others, and these
        are all ``str``, as they come or with a pattern from ``^`` to ``\Z``, lines without quotation are checked as
        they stand and go on by the hundred, as ``TextRows``.
        """
        yield from self._checked(read_csv_texts(self.path, type, key, comment))

    def _checked(self, records: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from records
        except ValueError as error:
            raise self.refused(str(error)) from None

    def refused(self, reason: str) -> FetchError:
        """Make the error for a body that cannot be used, to be raised: ``raise feed.refused("holds no rows")``."""
        return FetchError(self.url, reason)
