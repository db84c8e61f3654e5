"""What the sources hold, grown from a seed, and what the tables must hold because of it: computed from nothing else."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.published import publish
from tests.chaos.subjects.sizes import BEGINNING, SEVENTHS
from tests.replay import Answer, Replay

# What a table holds, as rows that can be counted.
TABLES = {
    "append": "SELECT record, value FROM appended",
    "seventh": "SELECT id, value FROM seventh",
    "events": "SELECT id, value FROM event",
    "snap": "SELECT id, value FROM snap",
}


class Truth:
    """The sources of one lane.

    Arguments:
        home: where the collectors look for ``source/KIND.json``.
        replay: the HTTP server that gives out the snapshot.
        path: the snapshot's, on that server.
    """

    def __init__(self, home: Path, replay: Replay, path: str) -> None:
        self._home = home / "source"
        self._home.mkdir()
        self._replay = replay
        self._path = path
        self._clock = BEGINNING
        self._appended: list[tuple[int, int, str]] = []
        self._events: list[tuple[int, int, str]] = []
        self._snap: dict[int, int] = {}
        self._version = 0
        self.say(pause=0)

    def grow(self, kind: str, random: Random, pause: float = 0) -> int:
        """Add news to the source of this kind: new records, changed ones, some at the same instant, some gone.

        Arguments:
            pause: seconds that a run waits before each checkpoint.

        Returns:
            How many records.
        """
        news = random.randint(5, 50)
        if kind in {"append", "seventh"}:
            for _ in range(news):
                self._appended.append((len(self._appended), random.randint(-999, 999), self._tick(random)))
        elif kind == "events":
            for _ in range(news):
                self._events.append((random.randint(0, 300), random.randint(-999, 999), self._tick(random)))
        else:
            for _ in range(news):
                self._snap[random.randint(0, 300)] = random.randint(-999, 999)
            for gone in random.sample(sorted(self._snap), len(self._snap) // 10):
                del self._snap[gone]
        self.say(pause)
        return news

    def say(self, pause: float) -> None:
        """Publish what there is."""
        self._version += 1
        body = json.dumps(sorted(self._snap.items())).encode()
        url = self._replay.answer(self._path, Answer(body=body, etag=f'"{self._version}"'))
        now = (self._clock + timedelta(minutes=1)).isoformat()
        self._publish("append", {"records": self._appended, "pause": pause})
        self._publish("events", {"records": self._events, "now": now, "pause": pause})
        self._publish("snap", {"url": url})

    def expected(self, kind: str) -> Counter[tuple[int, int]]:
        """Return the rows that the table of this kind must hold, and how often."""
        if kind == "append":
            return Counter((record, value) for record, value, _ in self._appended)
        if kind == "seventh":
            sums: Counter[int] = Counter()
            for record, value, _ in self._appended:
                sums[record % SEVENTHS] += value
            return Counter(sums.items())
        if kind == "events":
            return Counter({record: value for record, value, _ in self._events}.items())
        return Counter(self._snap.items())

    def _tick(self, random: Random) -> str:
        # Some records share an instant with the one before.
        self._clock += timedelta(minutes=random.choice((0, 0, 1, 3, 9)))
        return self._clock.isoformat()

    def _publish(self, kind: str, said: dict[str, Any]) -> None:
        publish(self._home / f"{kind}.json", json.dumps(said))


def differences(expected: Counter[Any], found: Counter[Any]) -> dict[str, list[Any]]:
    """Return the rows that are lost, doubled, and those that the source never had."""
    surplus = found - expected
    return {
        "lost": sorted((expected - found).elements()),
        "doubled": sorted(row for row in surplus if row in expected),
        "phantom": sorted(row for row in surplus if row not in expected),
    }
