"""The faults: what is done to a process that waits at a crash point, and what is undone when the case is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from tests.chaos.cases import Case
from tests.chaos.desk import Hit
from tests.chaos.lane import Lane

Undo = Callable[[], bool]
"""Undoes a fault when all has come right, and tells whether it had found anything to strike."""

_PATIENCE = 60.0
_NEXT_STATEMENT = 3.0
_OUTAGE = 1.0
# Of so many answers that a migration gets any may be lost: the first is always that of a SELECT.
_ANSWERS = {"drift": 12, "fresh": 40}


def strike(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    """Do it, let the process go on, and return what undoes it."""
    return _FAULTS[case.fault](lane, hit, case, random)


def _kill(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    # Of a worker, the kernel kills one process when memory runs out, and all of them when the machine stops.
    if random.random() < 1 / 3:
        os.kill(hit.pid, signal.SIGKILL)
    else:
        os.killpg(hit.group, signal.SIGKILL)
    return _struck


def _term(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    process, mark = lane.wire_of(hit).process, lane.mark()
    os.kill(hit.group, signal.SIGTERM)
    told = True
    if random.random() < 2 / 3 and case.is_in_a_workers_run:
        # dramatiq looks once a second whether it is to stop, and only then raises Shutdown in the run's thread.
        told = _comes(lambda: "is told to hand over" in lane.said_since(mark), _PATIENCE)
    hit.go_on()

    def ended() -> bool:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        return told and process.returncode is not None

    return ended


def _comes(what: Callable[[], bool], patience: float) -> bool:
    give_up = time.monotonic() + patience
    while not what():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def _stop(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    os.killpg(hit.group, signal.SIGSTOP)

    def wake() -> bool:
        with suppress(ProcessLookupError):
            os.killpg(hit.group, signal.SIGCONT)
        hit.go_on()
        return True

    return wake


def _raise(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    hit.go_on(b"raise")
    return _struck


def _cut(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    severed = lane.wire_of(hit).database.cut()
    hit.go_on()
    # Those of the thread that waits, if it has any: that others of its process end is another fault.
    return lambda: bool(severed & set(hit.ports) if hit.ports else severed)


def _lose(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    database = lane.wire_of(hit).database
    lost_before = len(database.lost)
    of_a_migration = case.point.startswith("migrate.")  # which has a connection that the point does not know of
    spared = random.randrange(_ANSWERS[case.kind]) if case.point == "migrate.locked" else 0
    database.lose_answer(() if of_a_migration else hit.ports, spared)
    hit.go_on()

    def lose_nothing() -> bool:
        # All may be right before this process, a migration for one, has come to its next statement.
        patience = _PATIENCE if case.must_strike else _NEXT_STATEMENT
        _comes(lambda: len(database.lost) > lost_before, patience)
        database.lose_nothing()
        return len(database.lost) > lost_before

    return lose_nothing


def _broker(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    broker = lane.wire_of(hit).broker
    refused_before = broker.refused
    broker.refuse(refuses=True)
    hit.go_on()
    time.sleep(_OUTAGE)
    broker.refuse(refuses=False)
    return lambda: broker.refused > refused_before


def _struck() -> bool:
    """There is nothing to undo, and it was a process that was struck."""
    return True


_FAULTS: dict[str, Callable[[Lane, Hit, Case, Random], Undo]] = {
    "kill": _kill,
    "term": _term,
    "stop": _stop,
    "raise": _raise,
    "cut": _cut,
    "lose": _lose,
    "broker": _broker,
}
