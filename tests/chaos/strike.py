"""The faults: what is done to a process that waits at a crash point, and what is undone when the case is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from tests.chaos.desk import Hit
from tests.chaos.lane import Lane

Undo = Callable[[], None]

_SHUTDOWN_PATIENCE = 4.0
_OUTAGE = 1.0


def strike(lane: Lane, hit: Hit, fault: str, random: Random) -> Undo:
    """Do it, let the process go on, and return what undoes it."""
    return _FAULTS[fault](lane, hit, random)


def _kill(lane: Lane, hit: Hit, random: Random) -> Undo:
    # Of a worker, the kernel kills one process when memory runs out, and all of them when the machine stops.
    if random.random() < 1 / 3:
        os.kill(hit.pid, signal.SIGKILL)
    else:
        os.killpg(hit.group, signal.SIGKILL)
    return _nothing


def _term(lane: Lane, hit: Hit, random: Random) -> Undo:
    mark = lane.mark()
    os.kill(hit.group, signal.SIGTERM)
    if random.random() < 2 / 3:
        # dramatiq looks once a second whether it is to stop, and only then raises Shutdown in the run's thread.
        give_up = time.monotonic() + _SHUTDOWN_PATIENCE
        while "is told to hand over" not in lane.said_since(mark) and time.monotonic() < give_up:
            time.sleep(0.05)
    hit.go_on()
    return _nothing


def _stop(lane: Lane, hit: Hit, random: Random) -> Undo:
    os.killpg(hit.group, signal.SIGSTOP)

    def wake() -> None:
        with suppress(ProcessLookupError):
            os.killpg(hit.group, signal.SIGCONT)
        hit.go_on()

    return wake


def _raise(lane: Lane, hit: Hit, random: Random) -> Undo:
    hit.go_on(b"raise")
    return _nothing


def _cut(lane: Lane, hit: Hit, random: Random) -> Undo:
    lane.wire_of(hit).database.cut()
    hit.go_on()
    return _nothing


def _lose(lane: Lane, hit: Hit, random: Random) -> Undo:
    database = lane.wire_of(hit).database
    database.lose_answer(hit.ports)
    hit.go_on()
    return database.lose_nothing


def _broker(lane: Lane, hit: Hit, random: Random) -> Undo:
    broker = lane.wire_of(hit).broker
    broker.refuse(refuses=True)
    hit.go_on()
    time.sleep(_OUTAGE)
    broker.refuse(refuses=False)
    return _nothing


def _nothing() -> None:
    """Leave it as it is."""


_FAULTS: dict[str, Callable[[Lane, Hit, Random], Undo]] = {
    "kill": _kill,
    "term": _term,
    "stop": _stop,
    "raise": _raise,
    "cut": _cut,
    "lose": _lose,
    "broker": _broker,
}
