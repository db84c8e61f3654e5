"""What a load did to how many rows."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct, frozen=True):
    """How many rows a load touched, and how; counts add up.

    Attributes:
        inserted: rows that were not there.
        updated: rows that were there with other values, or were marked as gone and came back.
        unchanged: rows that were there with the same values; they were not written.
        removed: rows that the source no longer lists, deleted or marked as gone.
        rejected: records that were not used: they could not be read, or a later row has the same key.
        denied: rows whose key or another unique value is taken by a row that this load may not see, and rows that it
            may not change.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    rejected: int = 0
    denied: int = 0

    @property
    def changed(self) -> bool:
        """Whether the table is another than before."""
        return self.inserted + self.updated + self.removed > 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(ours + theirs for ours, theirs in zip(self._all(), other._all(), strict=True)))

    def __str__(self) -> str:
        kinds = zip(self._all(), self.__struct_fields__, strict=True)
        return ", ".join(f"{count:,} {kind}" for count, kind in kinds if count) or "nothing"

    def _all(self) -> tuple[int, ...]:
        return msgspec.structs.astuple(self)
