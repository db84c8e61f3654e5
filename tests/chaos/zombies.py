"""Holders that are stopped beyond their lease, and wake up when others have done their work.

A holder that wakes up is interrupted within milliseconds, mostly before it can try anything. So half of them are not
interrupted: those go on, and what refuses them are the guard of the checkpoint and that of the close.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from tests.chaos.desk import Hit
from tests.chaos.lane import Lane, dice
from tests.chaos.play import judge, settle
from tests.chaos.verdict import Broken, NotPlayed

KINDS = ("append", "events", "snap")
# Those that load in bulk are inside a COPY in the middle of their rows, and are stopped there more often.
_BULK = {"events", "snap"}
_OFTEN = 3
PLACES = {
    "checkpoint.before": "idle",
    "checkpoint.begun": "inside a transaction",
    "rows.middle": "in the middle of its rows",
    "guard.after": "holding its collector's row",
    "commit.before": "about to COMMIT",
    "close.before": "about to close",
}
# What the line says with which a run ends, by who refused it.
_REFUSALS = {
    "by the guard of the checkpoint": "its transaction was rolled back",
    "by the guard of the close": "closed as LOST at",
    "by an interrupt": "closed by somebody else",
}
_HIT_PATIENCE = 60.0
_WAKING_PATIENCE = 60.0


@dataclass
class Woken:
    """What the holders met with.

    Attributes:
        places: how many were stopped where.
        in_copy: how many of them while the server read their rows, as it says itself.
        refused: how many by whom.
        accepted: acts of theirs that went through after they had been closed, in words.
        successor_after: seconds from the stop of a holder, while another worker lives, to the claim of its successor.
    """

    places: Counter[str] = field(default_factory=Counter)
    in_copy: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    successor_after: list[float] = field(default_factory=list)


def stop_and_wake(lane: Lane, seed: int, number: int, woken: Woken) -> None:
    """Stop one holder of each kind at once, let others do the work, wake them, and see that nothing of it counts.

    Raises:
        Broken: a law was broken, a successor was held back, or a woken run went on.
    """
    random = dice(seed, "zombies", lane.number, number)
    withheld = (lane.number + number) % 2 == 0
    try:
        another = _parked_worker(lane)
        runs = _held(lane, random, _places(random, withheld=withheld))
        hits = runs.values()
        in_copy = _in_copy(lane, list(runs))
        groups = {hit.group for hit in hits}
        another.go_on()
        stopped_at = lane.sql("SELECT clock_timestamp()")[0][0]
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        settle(lane, ("append", "seventh", *KINDS[1:]))
        closed = _closed(lane, list(runs))
        mark = lane.mark()
        if withheld:
            lane.desk.withhold_interrupts()
        for group in groups:
            os.killpg(group, signal.SIGCONT)
        for hit in hits:
            hit.go_on()
        refused = _refused(lane, list(runs), mark)
        judge(lane, ("append", "seventh", *KINDS[1:]))

        if withheld:
            _see_that_each_tried(runs, refused)
        woken.places.update(_place(hit) for hit in hits)
        woken.in_copy += in_copy
        woken.refused.update(refused.values())
        woken.accepted += [f"run {run} changed" for run, row in _closed(lane, list(runs)).items() if row != closed[run]]
        woken.successor_after += [
            seconds
            for (seconds,) in lane.sql(
                "SELECT extract(epoch FROM min(b.started_at) - %s)::float8 FROM collectkit.run a JOIN collectkit.run b"
                " ON b.collector = a.collector AND b.fence > a.fence WHERE a.id = ANY (%s) GROUP BY a.id",
                stopped_at,
                list(runs),
            )
        ]
    finally:
        for group in {hit.group for hit in lane.desk.heard}:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)
        lane.tidy()


def _places(random: Random, *, withheld: bool) -> dict[str, str]:
    """Return at which place each kind is to be stopped; where none is interrupted each guard is met at least once."""
    places = [random.choice([*PLACES, *["rows.middle"] * (_OFTEN - 1 if kind in _BULK else 0)]) for kind in KINDS]
    if withheld:
        # Whoever is stopped inside a transaction loses its connection, and gets no further than to its close.
        places[:2] = ["checkpoint.before", "close.before"]
        random.shuffle(places)
    return dict(zip(KINDS, places, strict=True))


def _held(lane: Lane, random: Random, places: dict[str, str]) -> dict[int, Hit]:
    """Have a run of each kind wait at its place; return them by number."""
    lane.upkeep()
    for kind, place in places.items():
        lane.truth.grow(kind, random)
        lane.desk.arm(place, f"chaos.{kind}")
    for kind in KINDS:
        lane.request(kind)
    runs: dict[int, Hit] = {}
    give_up = time.monotonic() + _HIT_PATIENCE
    while len(runs) < len(KINDS):
        if hit := lane.desk.hit(0.2):
            runs[_run_of(lane, hit)] = hit
        elif time.monotonic() > give_up:
            raise NotPlayed(f"only {[hit.point for hit in runs.values()]} came by in {_HIT_PATIENCE:.0f} s")
    return runs


def _parked_worker(lane: Lane) -> Hit:
    """Start one more worker up to where it would begin to work, lest its start be measured, or it take a run itself."""
    lane.upkeep()
    while True:
        lane.desk.arm("start.worker")
        if lane.spare.process is None:
            lane.start(lane.spare, "worker", "--threads=3")
        hit = lane.desk.hit(_HIT_PATIENCE)
        if hit is None:
            raise NotPlayed(f"no worker started in {_HIT_PATIENCE:.0f} s")
        if hit.group == lane.spare.process.pid:
            return hit
        hit.go_on()


def _place(hit: Hit) -> str:
    return hit.point.partition("@")[0]


def _run_of(lane: Lane, hit: Hit) -> int:
    collector = hit.point.partition("@")[2]
    found = lane.sql(
        "SELECT id FROM collectkit.run"
        " WHERE collector = %s AND outcome = 'RUNNING' AND split_part(worker, ':', 2) = %s",
        collector,
        str(hit.pid),
    )
    if not found:
        raise NotPlayed(f"{collector} was taken from its holder, which waits at {_place(hit)}, before that was stopped")
    return int(found[0][0])


def _in_copy(lane: Lane, runs: list[int]) -> int:
    """Return how many of these runs have a backend that is carrying out a COPY."""
    ((count,),) = lane.sql(
        "SELECT count(*) FROM pg_stat_progress_copy JOIN pg_stat_activity USING (pid)"
        " WHERE type = 'PIPE' AND application_name = ANY (%s) AND pg_stat_activity.datname = current_database()",
        [f"collectkit {run}" for run in runs],
    )
    return int(count)


def _closed(lane: Lane, runs: list[int]) -> dict[int, tuple[object, ...]]:
    """Return how these runs were closed, all of it."""
    rows = lane.sql("SELECT r.id, r.outcome, r::text FROM collectkit.run r WHERE id = ANY (%s)", runs)
    for run, outcome, _ in rows:
        if outcome != "LOST":
            raise Broken(f"run {run} was stopped beyond its lease and is {outcome}")
    return {run: row for run, *row in rows}


def _refused(lane: Lane, runs: list[int], mark: int) -> dict[int, str]:
    """Wait until each run has ended in its own eyes too, which its process says in a line; return who refused it."""
    give_up = time.monotonic() + _WAKING_PATIENCE
    while True:
        said = lane.said_since(mark)
        ends = {run: found[1] for run in runs if (found := re.search(rf"run {run} ([A-Z_]+ in .*)\n", said))}
        if others := [f"run {run} {end}" for run, end in ends.items() if not end.startswith("LOST ")]:
            raise Broken(f"it was closed as LOST, woke up, and thinks that it ended otherwise: {others[0]}")
        if len(ends) == len(runs):
            return {run: _refuser(run, end) for run, end in ends.items()}
        if time.monotonic() > give_up:
            left = sorted(set(runs) - set(ends))
            raise Broken(f"runs {left} woke up and did not end in {_WAKING_PATIENCE:.0f} s")
        time.sleep(0.02)


def _refuser(run: int, end: str) -> str:
    for by, words in _REFUSALS.items():
        if words in end:
            return by
    raise Broken(f"run {run} woke up and ended as LOST, by nothing that is known to refuse it: {end}")


def _see_that_each_tried(runs: dict[int, Hit], refused: dict[int, str]) -> None:
    """Hold what each run that was not interrupted met with against the place where it had been stopped.

    Raises:
        Broken: it was something else than the first guard on its way.
    """
    for run, hit in runs.items():
        guard = "checkpoint" if _place(hit) == "checkpoint.before" else "close"
        by = refused[run]
        if not by.endswith(f" {guard}"):
            raise Broken(f"run {run} woke up at {hit.point} without an interrupt, and was refused {by}")
