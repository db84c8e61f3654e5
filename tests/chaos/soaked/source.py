"""The soak's sources: files that a seed decides, of which a reader sees as much as has been published by now.

Each line is one version of one record, in the order of publication. Some come late, many share an instant, records are
changed and deleted again and again, and a listing gives them in no order. What is visible depends on the step alone,
which the test moves on: so anybody, at any time, can say what the tables must hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

LATENESS = 4
"""In steps: how long after its instant a record may be published."""

NEVER = 99_999
_WIDTH = 8 + 1 + 6 + 1 + 7 + 1 + 5 + 1 + 5 + 1 + 5 + 1 + 1 + 1


class Version(NamedTuple):
    """One version of a record.

    Attributes:
        seq: its place in the order of publication.
        instant: when it happened, by the source's own clock, which shows the step.
        published: the step from which on it is visible.
        superseded: the step from which on a newer version stands in its place.
        deleted: whether it says that the record is gone.
    """

    seq: int
    id: int
    value: int
    instant: int
    published: int
    superseded: int
    deleted: int


def generate(path: Path, seed: str, steps: int, per_step: int) -> int:
    """Write a source's file and return how many versions it has."""
    random = Random(seed)
    ids = max(10, steps * per_step // 3)
    made: list[Version] = []
    latest: dict[int, int] = {}
    for step in range(steps):
        # A deletion is late as everything may be, but no version is older than the one before it.
        for id in random.sample(range(ids), per_step):
            seq, before = len(made), latest.get(id)
            instant = max(0, step - random.choice((0, 0, 0, 0, 0, 0, 1, 2, LATENESS)))
            if before is not None:
                instant = max(instant, made[before].instant)
                made[before] = made[before]._replace(superseded=step)
            gone = random.random() < 0.1 and before is not None and not made[before].deleted
            made.append(Version(seq, id, random.randint(-99_999, 99_999), instant, step, NEVER, int(gone)))
            latest[id] = seq
    with path.open("w") as file:
        file.writelines(
            f"{v.seq:08},{v.id:06},{v.value:+07},{v.instant:05},{v.published:05},{v.superseded:05},{v.deleted}\n"
            for v in made
        )
    return len(made)


class Source:
    """A reader's view of one source.

    Arguments:
        path: its file.
        per_step: how many versions are published in a step.
    """

    def __init__(self, path: Path, per_step: int) -> None:
        self._path = path
        self._per_step = per_step

    def after(self, seq: int, step: int, limit: int) -> list[Version]:
        """Return at most ``limit`` versions published by ``step`` behind the first ``seq``, in order."""
        return list(self._read(seq, min(limit, (step + 1) * self._per_step - seq)))

    def changed(self, start: int, end: int, step: int) -> list[Version]:
        """Return the current versions whose instants lie from ``start`` to before ``end``, in no order."""
        first = max(0, start) * self._per_step
        last = min(step, end - 1 + LATENESS) + 1
        found = [
            v
            for v in self._read(first, last * self._per_step - first)
            if start <= v.instant < end and step < v.superseded
        ]
        Random(step).shuffle(found)
        return found

    def snapshot(self, step: int) -> list[Version]:
        """Return the current versions of all records that are there, in no order."""
        found = [v for v in self.after(0, step, NEVER * self._per_step) if step < v.superseded and not v.deleted]
        Random(step).shuffle(found)
        return found

    def _read(self, first: int, count: int) -> Iterator[Version]:
        if count > 0:
            with self._path.open("rb") as file:
                file.seek(first * _WIDTH)
                for line in file.read(count * _WIDTH).splitlines():
                    yield Version(*map(int, line.split(b",")))


def tally(versions: Iterable[tuple[int, int]], parts: int) -> list[tuple[int, int, int]]:
    """Return how many rows (id, value) each part has and what they add up to: what derived tables hold."""
    sums: dict[int, tuple[int, int]] = {}
    for id, value in versions:
        count, total = sums.get(id % parts, (0, 0))
        sums[id % parts] = (count + 1, total + value)
    return sorted((part, *both) for part, both in sums.items())
