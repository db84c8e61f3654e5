"""Records that cannot be used: set aside, counted and written down, up to the share that a load may lose."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
import psycopg

from collectkit.errors import TooManyRejected
from collectkit.textrows import TextRows

# From here on a load is given up as soon as the share is passed, so that a feed of poison does not fill the memory.
_MANY = 10_000
_LONGEST_REASON = 500
_FEW = 5
# Seen again, a record keeps the time at which it was seen first.
_WRITE = """
INSERT INTO collectkit.rejected AS r (collector, digest, reason)
SELECT %s, digest, reason FROM unnest(%s::text[], %s::text[]) AS u (digest, reason)
ON CONFLICT (collector, digest) DO UPDATE SET reason = excluded.reason WHERE r.reason <> excluded.reason
"""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Rejected(msgspec.Struct, frozen=True):
    """A record that cannot be used; it may stand among the rows of any load, in the place of its row.

    Attributes:
        record: the bytes as the source gave them, or the name of a file that is too large to be read; nothing but their
            SHA-256 is kept.
        reason: what is wrong with it, in one line; it is stored and shown, so it does not quote the record.
        key: the key of its row, if that much can be told: ``replace`` then leaves the row as it is. A sequence of
            values if the key has several fields.
    """

    record: bytes
    reason: str
    key: object = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the record, in hexadecimal digits."""
        return sha256(self.record).hexdigest()

    @property
    def line(self) -> str:
        """The reason, in one line that PostgreSQL can store."""
        words = " ".join(self.reason.replace("\0", " ").split())[:_LONGEST_REASON]
        return words.encode(errors="replace").decode()


def unread(name: str, size: int, limit: int) -> Rejected:
    """Return the rejection of a file that is too large to be read: its name stands for it."""
    return Rejected(name.encode(errors="replace"), f"has {size:,} bytes, more than the limit of {limit:,}")


class Rejections:
    """The rejected records of one load.

    Arguments:
        table: where the rows go, for messages.
        share: the largest part of all records that may be rejected, 0 to 1. Unless it is 0, a single one is never too
            many.
        update: whether the records are those of an update, and not all that there are. The share says nothing about
            ten of them, so up to five are not too many either, if at least half of the records can be read.

    Attributes:
        count: how many there are so far.
        keys: of those whose key could be told.
    """

    def __init__(self, table: str, share: float, *, update: bool) -> None:
        self._table = table
        self._share = share
        self._few = _FEW if update else 1
        self._seen = 0
        self._reasons: dict[str, str] = {}
        self.count = 0
        self.keys: list[object] = []

    def sift(self, records: Iterable[T | Rejected]) -> Iterator[T]:
        """Let rows through, one at a time as they come, and keep the rejected records back."""
        for record in records:
            self._seen += record.count if isinstance(record, TextRows) else 1
            if isinstance(record, Rejected):
                self._keep(record)
            else:
                yield record

    def judge(self) -> None:
        """Return if the load may go on without these records.

        Raises:
            TooManyRejected: they are more than may be lost.
        """
        few = max(1, min(self._few, self._seen // 2)) if self._share else 0
        if self.count > max(self._share * self._seen, few):
            raise TooManyRejected(self._table, self.count, self._seen, self._share, next(iter(self._reasons.values())))

    def write(self, connection: psycopg.Connection[Any], collector: str) -> None:
        """Write digests and reasons down, in the open transaction, and say it in the log."""
        if self._reasons:
            connection.execute(_WRITE, (collector, list(self._reasons), list(self._reasons.values())))
            first = next(iter(self._reasons.values()))
            logger.warning("table %s: records rejected: %d, first: %s", self._table, self.count, first)

    def _keep(self, rejected: Rejected) -> None:
        self.count += 1
        self._reasons.setdefault(rejected.digest, rejected.line)
        if rejected.key is not None:
            self.keys.append(rejected.key)
        if self.count >= _MANY:
            self.judge()
