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
# What the server says where it is one statement, and no other, whose answer is to be lost.
_ANSWERS = {"claim.before": "SELECT 1", "commit.before": "COMMIT"}


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
    # That connections of other threads end is another fault.
    return lambda: bool(severed if case.strikes_all_connections else severed & set(hit.ports))


def _lose(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    database = lane.wire_of(hit).database
    lost_before = len(database.lost)
    database.lose_answer(None if case.strikes_all_connections else hit.ports)
    hit.go_on()

    def lose_nothing() -> bool:
        # All may be right before this process, a migration for one, has come to its next statement.
        patience = _PATIENCE if case.must_strike else _NEXT_STATEMENT
        _comes(lambda: len(database.lost) > lost_before, patience)
        database.lose_nothing()
        lost = database.lost[lost_before:]
        return bool(lost) and lost[0] == _ANSWERS.get(case.point, lost[0])

    return lose_nothing


def _broker(lane: Lane, hit: Hit, case: Case, random: Random) -> Undo:
    broker = lane.wire_of(hit).broker
    refused_before = broker.refused
    broker.refuse(refuses=True)
    hit.go_on()
    # A worker that starts, or a scheduler, has no connection yet.
    _comes(lambda: broker.refused > refused_before, _PATIENCE)
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
