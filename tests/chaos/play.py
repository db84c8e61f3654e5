"""One case on a lane: the source grows, a process reaches the point, the fault strikes, and all must come right."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from tests.chaos import laws
from tests.chaos.cases import Case
from tests.chaos.commands import PROCESS_PATIENCE, begin_migration, finish_migration, last_run, see_how_it_ended
from tests.chaos.commits import commits, every_commit_was_its_holders
from tests.chaos.desk import Hit
from tests.chaos.lane import TTL, Lane, dice
from tests.chaos.strike import strike
from tests.chaos.subjects.sizes import GROUPS, STEP
from tests.chaos.verdict import Broken, NotPlayed

HIT_PATIENCE = 60.0
REST_PATIENCE = 60.0
_PAUSE = 0.02
_WAKING = 0.3

# Seconds before each checkpoint: so that a lease is renewed meanwhile; so that others may come in between.
_LONG = TTL / 3 * 1.5
_SLOW = TTL / 5


class Came(NamedTuple):
    """How a case came right.

    Attributes:
        seconds: from the moment at which the fault had struck until all was right; None if it was so before.
        struck: whether the fault found anything to strike.
    """

    seconds: float | None
    struck: bool


def play(lane: Lane, case: Case, seed: int, patience: float = REST_PATIENCE) -> Came:
    """Play the case; return how all came right.

    Arguments:
        patience: seconds until it must be.

    Raises:
        Broken: it was not, or something was wrong on the way.
        NotPlayed: nobody came by at the point, or the fault struck nothing although there is something.
    """
    random = dice(seed, *case)
    lane.upkeep()
    try:
        with _said(case):
            runs_before, mark = last_run(lane), lane.mark()
            hit, kinds = _provoke(lane, case, random)
            at_rest = lane.at_rest()
            undo = strike(lane, hit, case, random)
            began = time.monotonic()
            if case.kind == "hand":  # by hand is by hand: nobody repeats it
                lane.request("append")
            settle(lane, kinds, patience)
            seconds = None if at_rest else time.monotonic() - began
            if case.fault == "stop" and _withholds(case, seed):
                lane.desk.withhold_interrupts()
            runs = lane.runs_of(hit.pid, runs_before)  # all there can be: one that is stopped begins none
            struck = undo()
            if case.fault == "stop":
                _let_it_wake(lane, runs, mark)
                lane.desk.interrupt_again()
            if case.kind == "hand":
                see_how_it_ended(lane, case, runs_before)
            if case.kind in {"drift", "fresh"}:
                finish_migration(lane, case.kind)
            settle(lane, kinds, patience)
            judge(lane, kinds)
            if case.must_strike and not struck:
                raise NotPlayed("the fault did not strike what it was to strike")
            return Came(seconds, struck)
    finally:
        lane.tidy()


def _withholds(case: Case, seed: int) -> bool:
    """Tell whether whoever wakes up meets the ledger's guards and no interrupt: half of the cases, by turns."""
    return (seed + zlib.crc32(str(case).encode())) % 2 == 0


def settle(lane: Lane, kinds: tuple[str, ...], patience: float = REST_PATIENCE) -> None:
    """Return once nothing is left to do and the tables hold what the source says; look at them all the while."""
    give_up = time.monotonic() + patience
    while True:
        lane.upkeep()
        if broken := laws.rows_and_watermark_agree(lane):
            raise Broken("; ".join(broken))
        if lane.at_rest():
            wrong = laws.rows_are_those_of_the_source(lane, lane.truth, kinds)
            if not wrong:
                return
            # At rest and wrong for good: nobody will come to mend it, unless a process by hand is still starting.
            if lane.spare.process is None and lane.at_rest():
                raise Broken("at rest, but " + "; ".join(wrong))
        if time.monotonic() > give_up:
            stands = lane.sql(
                "SELECT name, holder, lease_until - clock_timestamp(), next_due_at - clock_timestamp(), attempt,"
                " last_error FROM collectkit.collector WHERE holder IS NOT NULL OR next_due_at < clock_timestamp()"
            )
            raise Broken(f"not at rest after {patience:.0f} s: {stands or 'rows are missing'}")
        time.sleep(_PAUSE)


def judge(lane: Lane, kinds: tuple[str, ...]) -> None:
    """Hold all laws against what has happened so far."""
    broken = [
        *laws.rows_are_those_of_the_source(lane, lane.truth, kinds),
        *laws.rows_and_watermark_agree(lane),
        *laws.rows_are_for_their_groups(lane, ["event"], GROUPS),
        *laws.one_committer(lane),
        *every_commit_was_its_holders(commits(lane)),
        *laws.history_follows_the_rules(lane),
    ]
    if broken:
        raise Broken("; ".join(broken[:5]))


def _provoke(lane: Lane, case: Case, random: Random) -> tuple[Hit, tuple[str, ...]]:
    """Have a process reach the point; return it, and whose tables have to come right."""
    kind = case.kind if case.kind in {"seventh", "events", "snap"} else "append"
    kinds = ("append", "seventh") if kind in {"append", "seventh"} else (kind,)
    family = case.point.partition(".")[0]
    # Some runs are slow: whoever follows keeps up with each of their commits.
    pause = _LONG if family in {"renew", "shutdown"} else random.choice((0, 0, _SLOW))
    grown = lane.truth.grow(kind, random, pause)
    desk = lane.desk
    if family in {"lost", "interrupt"}:
        return _after_another(lane, case, kind), kinds
    desk.arm(case.point, case.subject)
    if family in {"migrate", "reconcile", "retire"}:
        begin_migration(lane, case.kind)
    elif family in {"start", "schedule"}:
        lane.start(lane.spare, "scheduler" if family == "schedule" else "worker")
    elif case.kind == "hand":
        lane.start(lane.spare, "run", "chaos.append")
    if case.kind != "hand":
        lane.request("append" if kind == "seventh" else kind)
    hit = _awaited_of_a_stop(lane, case, random) if family == "shutdown" else _awaited(lane, case)
    if case.point in {"claim.before", "sweep.before"} and _is_in_vain(lane, case, hit):
        hit.go_on()
        settle(lane, kinds)
        return _provoke(lane, case, random)
    # A cursor makes many checkpoints: any of them is struck, the last one too.
    of_a_checkpoint = family in {"checkpoint", "rows", "guard", "commit"} and case.kind in {"append", "hand"}
    for _ in range(random.randrange(-(-grown // STEP)) if of_a_checkpoint else 0):
        desk.arm(case.point, case.subject)
        hit.go_on()
        hit = _awaited(lane, case)
    return hit, kinds


def _is_in_vain(lane: Lane, case: Case, hit: Hit) -> bool:
    """Tell whether who came by has no connection to strike, as before its first word, or has nothing to claim."""
    if case.fault in {"cut", "lose"} and lane.wire_of(hit).database.ports().isdisjoint(hit.ports):
        return True
    # A nudge of long ago, which the broker hands out anew when the worker that had it is dead.
    return case.point == "claim.before" and not lane.sql(
        "SELECT 1 FROM collectkit.collector WHERE name = %s AND holder IS NULL"
        " AND (next_due_at <= clock_timestamp() OR %s)",
        case.collector,
        case.kind == "hand",
    )


def _after_another(lane: Lane, case: Case, kind: str) -> Hit:
    """Have a first process killed, or stopped and woken, so that there is something to close or to interrupt."""
    lane.desk.arm("checkpoint.begun", f"chaos.{kind}")
    lane.request(kind)
    first = _awaited(lane, case)
    if case.point == "interrupt.before":
        os.killpg(first.group, signal.SIGSTOP)
        settle(lane, (kind,))
        lane.desk.arm(case.point, case.subject)
        os.killpg(first.group, signal.SIGCONT)
        hit = _dutiful(lane, case, "interrupts a run that is lost")
        first.go_on()
        return hit
    lane.desk.arm(case.point, case.subject)
    os.killpg(first.group, signal.SIGKILL)
    return _dutiful(lane, case, "closes a run that is lost")


def _dutiful(lane: Lane, case: Case, duty: str) -> Hit:
    """Await whoever has this duty; that nobody comes by is no fault of the test."""
    try:
        return _awaited(lane, case)
    except NotPlayed as error:
        raise Broken(f"nobody {duty}: {error}") from None


def _awaited_of_a_stop(lane: Lane, case: Case, random: Random) -> Hit:
    """Tell a worker to stop; another one if it ends without coming by, for the case before had struck it already."""
    told: subprocess.Popen[bytes] | None = None
    give_up = time.monotonic() + HIT_PATIENCE
    while time.monotonic() < give_up:
        lane.upkeep()
        ready = [wire.process for wire in lane.wires if wire.ready()]
        if ready and (told is None or told.poll() is not None):
            told = random.choice(ready)
            os.kill(told.pid, signal.SIGTERM)
        if hit := lane.desk.hit(0.2):
            return hit
    raise NotPlayed(f"nobody came by at {case.point} in {HIT_PATIENCE:.0f} s")


def _awaited(lane: Lane, case: Case) -> Hit:
    give_up = time.monotonic() + HIT_PATIENCE
    while time.monotonic() < give_up:
        lane.upkeep()
        if hit := lane.desk.hit(0.2):
            return hit
        if case.kind == "hand" and not lane.spare.alive():
            # At a high load its lease lapses before it comes by, and nobody but us repeats it.
            lane.end(lane.spare.process)
            lane.start(lane.spare, "run", "chaos.append")
    raise NotPlayed(f"nobody came by at {case.point} in {HIT_PATIENCE:.0f} s")


def _let_it_wake(lane: Lane, runs: list[int], mark: int) -> None:
    """Let the one who was stopped try what it was about to do; each run ends in its own eyes too, as in the ledger."""
    time.sleep(_WAKING)
    give_up = time.monotonic() + PROCESS_PATIENCE
    for run in runs:
        ended = re.compile(rf"run {run} ([A-Z_]+) in ")
        while not (found := ended.search(lane.said_since(mark))):
            if time.monotonic() > give_up:
                raise Broken(f"run {run} woke up and did not end in {PROCESS_PATIENCE:.0f} s")
            time.sleep(_PAUSE)
        ((outcome,),) = lane.sql("SELECT outcome FROM collectkit.run WHERE id = %s", run)
        if found[1] != outcome:
            raise Broken(f"run {run} woke up and thinks that it is {found[1]}, the ledger has {outcome}")


@contextmanager
def _said(case: Case) -> Iterator[None]:
    try:
        yield
    except (Broken, NotPlayed) as error:
        raise type(error)(f"{case}: {error}") from None
