"""Playing many cases on several lanes at once, each with databases, sources and workers of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from tests.chaos.cases import Case
from tests.chaos.lane import Lane
from tests.chaos.play import REST_PATIENCE, Came, play
from tests.chaos.truth import TABLES
from tests.chaos.verdict import Broken, NotPlayed
from tests.replay import Replay
from tests.site import ROOT, Servers


@dataclass
class Played:
    """What came of the cases.

    Attributes:
        came: by case, how all came right; those that did not are not among them.
        broken: the laws that were broken, in words.
        not_played: the cases that did not come about, by a fault of the test itself.
        took: seconds for everything.
        runs: how many there were; ``rows``: how many the sources held at the end.
    """

    came: dict[Case, Came] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    not_played: list[str] = field(default_factory=list)
    took: float = 0
    runs: int = 0
    rows: int = 0


@contextmanager
def lanes(home: Path, count: int, *, library: Path = ROOT) -> Iterator[list[Lane]]:
    """Run so many lanes on one pair of servers.

    Arguments:
        home: a short path of its own.
        library: where ``collectkit`` is imported from.
    """
    with ExitStack() as stack:
        servers, replay = stack.enter_context(Servers(home)), stack.enter_context(Replay())
        yield [
            stack.enter_context(Lane(home / f"l{number}", servers, replay, number, library=library))
            for number in range(1, count + 1)
        ]


def _played(lane: Lane, case: Case, seed: int, patience: float) -> tuple[Came | None, list[str], list[str]]:
    try:
        return play(lane, case, seed, patience), [], []
    except Broken as error:
        return None, [str(error)], []
    except NotPlayed as error:
        return None, [], [str(error)]
    except Exception as error:  # noqa: BLE001 - the test fails by it, but no law is broken
        return None, [], [f"{case}: {type(error).__name__}: {error}"]


def _words(came: Came | None) -> str:
    if came is None:
        return " " * 8 + "-"
    seconds = "before" if came.seconds is None else f"{came.seconds:.2f} s"
    return f"{seconds:>8}{' ' if came.struck else '*'}"


def in_parallel(on: list[Lane], work: Callable[[Lane], object]) -> None:
    """Do the work on all lanes at once; what one raises is raised when all have ended."""
    with ThreadPoolExecutor(len(on)) as pool:
        for done in [pool.submit(work, lane) for lane in on]:
            done.result()


def play_all(
    on: list[Lane], cases: Iterable[Case], seed: int, *, says: bool = False, patience: float = REST_PATIENCE
) -> Played:
    """Play the cases, as many at a time as there are lanes; the first fault ends it.

    Arguments:
        says: print a line for each case.
        patience: seconds from a fault until all must be right.
    """
    played, waiting, lock, began = Played(), deque(cases), Lock(), time.monotonic()

    def work(lane: Lane) -> None:
        while not played.broken and not played.not_played:
            with lock:
                if not waiting:
                    return
                case = waiting.popleft()
            came, broken, not_played = _played(lane, case, seed, patience)
            with lock:
                if came is not None:
                    played.came[case] = came
                played.broken += broken
                played.not_played += not_played
            if says:
                print(f"{len(played.came):6}  {_words(came)}  {case}", *broken, *not_played, flush=True)

    in_parallel(on, work)
    played.took = time.monotonic() - began
    for lane in on:
        played.runs += lane.sql("SELECT count(*) FROM collectkit.run")[0][0]
        played.rows += sum(lane.truth.expected(kind).total() for kind in TABLES)
    return played
