"""Playing many cases on several lanes at once, each with its own servers' databases, sources and workers."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread

from tests.chaos.cases import Case
from tests.chaos.lane import Lane
from tests.chaos.play import Broken, play
from tests.replay import Replay
from tests.site import ROOT, Servers


@dataclass
class Played:
    """What came of it.

    Attributes:
        seconds: by case, from the fault until all was right.
        broken: the laws that were broken, in words.
        took: seconds for everything.
    """

    seconds: dict[Case, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    runs: int = 0
    rows: int = 0
    took: float = 0.0


def play_all(
    home: Path, cases: Iterable[Case], seed: int, *, lanes: int = 6, library: Path = ROOT, says: bool = False
) -> Played:
    """Play the cases and return what came of it; the first law that breaks ends it.

    Arguments:
        home: a short path of its own.
        library: where ``collectkit`` is imported from.
        says: print a line for each case.
    """
    waiting, played, lock, began = deque(cases), Played(), Lock(), time.monotonic()
    total = len(waiting)

    def work(lane: Lane) -> None:
        while not played.broken:
            with lock:
                if not waiting:
                    return
                case = waiting.popleft()
            try:
                seconds = play(lane, case, seed)
            except Broken as error:
                played.broken.append(str(error))
            except Exception as error:  # noqa: BLE001 - a fault of the test itself is a failure too
                played.broken.append(f"{case}: {type(error).__name__}: {error}")
            else:
                with lock:
                    played.seconds[case] = seconds
                if says:
                    print(f"{len(played.seconds):5} of {total}  {seconds:6.2f} s  {case}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        servers, replay = stack.enter_context(Servers(home)), stack.enter_context(Replay())
        made = [
            stack.enter_context(Lane(home / f"l{number}", servers, replay, number, library=library))
            for number in range(1, min(lanes, total) + 1)
        ]
        threads = [Thread(target=work, args=(lane,), name=f"lane-{lane.number}") for lane in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for lane in made:
            played.runs += lane.sql("SELECT count(*) FROM collectkit.run")[0][0]
            played.rows += sum(lane.truth.expected(kind).total() for kind in ("append", "seventh", "events", "snap"))
    played.took = time.monotonic() - began
    return played
