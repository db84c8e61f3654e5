"""Holders that are stopped beyond their lease, and wake up when others have done their work."""

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
from tests.chaos.play import Broken, judge, settle

KINDS = ("append", "events", "snap")
PLACES = {
    "checkpoint.before": "idle",
    "checkpoint.begun": "inside a transaction",
    "rows.middle": "in the middle of its rows, for those that load in bulk inside COPY",
    "guard.after": "holding its collector's row",
    "commit.before": "about to COMMIT",
    "close.before": "about to close",
}
_HIT_PATIENCE = 60.0
_WAKING_PATIENCE = 60.0


@dataclass
class Woken:
    """What the holders met with.

    Attributes:
        places: how many were stopped where.
        accepted: acts of theirs that went through after they had been closed, in words.
        successor_after: seconds from the stop of a holder to the claim of its successor.
    """

    places: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    successor_after: list[float] = field(default_factory=list)


def stop_and_wake(lane: Lane, seed: int, number: int, woken: Woken) -> None:
    """Stop one holder of each kind at once, let others do the work, wake them, and see that nothing of it counts.

    Raises:
        Broken: a law was broken, a successor was held back, or a woken run went on.
    """
    random = dice(seed, "zombies", lane.number, number)
    try:
        hits = _held(lane, random)
        runs = {_run_of(lane, hit): hit for hit in hits}
        stopped_at = lane.sql("SELECT clock_timestamp()")[0][0]
        groups = {hit.group for hit in hits}
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        if all(wire.process.pid in groups for wire in lane.wires):
            lane.start(lane.spare, "worker", "--threads=3")
        settle(lane, ("append", "seventh", *KINDS[1:]))
        closed = _closed(lane, list(runs))
        mark = lane.mark()
        for group in groups:
            os.killpg(group, signal.SIGCONT)
        for hit in hits:
            hit.go_on()
        _wait_until_over(lane, list(runs), mark)
        judge(lane, ("append", "seventh", *KINDS[1:]))

        woken.places.update(hit.point.partition("@")[0] for hit in hits)
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


def _held(lane: Lane, random: Random) -> list[Hit]:
    """Have a run of each kind wait at some place."""
    lane.upkeep()
    for kind in KINDS:
        lane.truth.grow(kind, random)
        lane.desk.arm(random.choice(list(PLACES)), f"chaos.{kind}")
    for kind in KINDS:
        lane.request(kind)
    hits: list[Hit] = []
    give_up = time.monotonic() + _HIT_PATIENCE
    while len(hits) < len(KINDS):
        if hit := lane.desk.hit(0.2):
            hits.append(hit)
        elif time.monotonic() > give_up:
            raise Broken(f"only {[hit.point for hit in hits]} came by in {_HIT_PATIENCE:.0f} s")
    return hits


def _run_of(lane: Lane, hit: Hit) -> int:
    collector = hit.point.partition("@")[2]
    ((run,),) = lane.sql("SELECT id FROM collectkit.run WHERE collector = %s AND outcome = 'RUNNING'", collector)
    return run


def _closed(lane: Lane, runs: list[int]) -> dict[int, tuple[object, ...]]:
    """Return how these runs were closed, all of it."""
    rows = lane.sql("SELECT r.id, r.outcome, r::text FROM collectkit.run r WHERE id = ANY (%s)", runs)
    for run, outcome, _ in rows:
        if outcome != "LOST":
            raise Broken(f"run {run} was stopped beyond its lease and is {outcome}")
    return {run: row for run, *row in rows}


def _wait_until_over(lane: Lane, runs: list[int], mark: int) -> None:
    """Wait until each run has ended in its own eyes too, which its process says in a line."""
    give_up = time.monotonic() + _WAKING_PATIENCE
    while True:
        said = lane.said_since(mark)
        if all(re.search(rf"run {run} LOST in ", said) for run in runs):
            return
        if time.monotonic() > give_up:
            left = [run for run in runs if not re.search(rf"run {run} LOST in ", said)]
            raise Broken(f"runs {left} woke up and did not end as LOST in {_WAKING_PATIENCE:.0f} s")
        time.sleep(0.02)
