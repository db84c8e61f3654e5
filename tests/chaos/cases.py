"""The matrix: every crash point, every fault, each kind of collector that comes by there."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import NamedTuple, get_args

from collectkit.crashpoints import Point

FAULTS = {
    "kill": "SIGKILL, to the process alone or to its whole group",
    "term": "SIGTERM, as a deployment sends it; the run goes on at once, or not before it is told to hand over",
    "stop": "SIGSTOP until its successor has done the work, then SIGCONT; half of the cases without the interrupt",
    "raise": "an exception",
    "cut": "every connection to PostgreSQL ends",
    "lose": "the next statement is carried out, and its answer is lost",
    "broker": "every connection to the broker ends, and for a second none is taken",
}

RUNS = ("append", "seventh", "events", "snap", "hand")
"""``hand`` is ``collectkit run`` of the first: the fault strikes that process."""

_IN_A_RUN = (
    "claim.before", "claim.answered", "run.before", "checkpoint.before", "checkpoint.begun", "rows.middle",
    "guard.before", "guard.after", "commit.before", "commit.after", "run.after", "close.before", "close.answered",
    "run.closed",
)  # fmt: skip
_IN_A_LOAD = ("load.staged", "load.middle")
_IN_A_FETCH = ("fetch.before", "fetch.middle", "fetch.after")
_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_IN_A_RUN, RUNS),
    **dict.fromkeys(_IN_A_LOAD, ("seventh", "events", "snap")),
    **dict.fromkeys(_IN_A_FETCH, ("snap",)),
    **dict.fromkeys(("renew.before", "renew.answered"), ("append", "events")),
    **dict.fromkeys(("interrupt.before", "lost.before", "lost.backend_ended", "lost.closed"), ("append",)),
    **dict.fromkeys(("sweep.before", "nudge.before", "nudge.marked", "nudge.sent"), ("append",)),
    **dict.fromkeys(("schedule.before", "start.setup", "start.worker", "shutdown.before"), ("append",)),
    **dict.fromkeys(
        ("migrate.locked", "migrate.schema", "migrate.tables", "reconcile.before", "reconcile.answered"),
        ("drift", "fresh"),
    ),
    "retire.before": ("drift",),
}
# Where the thread that comes by has a connection to PostgreSQL, and certainly something to say on it.
_IN_TALK = {
    *_IN_A_RUN, *_IN_A_LOAD, *_IN_A_FETCH,
    "renew.before", "lost.before", "lost.backend_ended", "nudge.marked",
    "migrate.locked", "migrate.schema", "migrate.tables", "reconcile.before",
} - {"claim.before", "close.answered", "run.closed"}  # fmt: skip
TABLES = {"seventh": "seventh", "events": "event", "snap": "snap"}


class Case(NamedTuple):
    """One fault at one place.

    Attributes:
        kind: which collector comes by; for ``migrate``, whether it finds a ledger that differs or an empty database.
    """

    point: str
    fault: str
    kind: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def is_in_a_workers_run(self) -> bool:
        """Whether the thread that comes by is one of a worker, with a nudge in hand."""
        return self.point in _IN_A_RUN + _IN_A_LOAD + _IN_A_FETCH and self.kind != "hand"

    @property
    def must_strike(self) -> bool:
        """Whether the fault certainly finds something, so that it is an error if it does not.

        A worker looks into the broker's queue all the time. Elsewhere a connection may or may not be there, and a
        statement that is not sent has no answer to lose: those are counted.
        """
        if self.fault in {"cut", "lose"}:
            return self.point in _IN_TALK
        return self.fault != "broker" or not self.point.startswith("start.")

    @property
    def is_vain(self) -> bool:
        """Whether the fault could find nothing, ever: the process has no such connection, or nothing more to say."""
        by_hand = self.kind == "hand"
        return (
            (self.fault == "cut" and self.point == "start.setup")
            or (self.fault == "broker" and (by_hand or self.kind in {"drift", "fresh"}))
            or (self.fault == "lose" and by_hand and self.point in {"close.answered", "run.closed"})
        )

    @property
    def collector(self) -> str:
        """The name of the collector that comes by."""
        return f"chaos.{'append' if self.kind == 'hand' else self.kind}"

    @property
    def subject(self) -> str:
        """What the process says of itself at the point."""
        family = self.point.partition(".")[0]
        if family in {"fetch", "renew", "sweep", "schedule", "start", "shutdown", "migrate", "retire"}:
            return ""
        if self.point == "nudge.before":
            return ""
        if family == "load":
            return TABLES[self.kind]
        return "chaos.snap" if family == "reconcile" else self.collector


def matrix() -> list[Case]:
    """Return every case there is, but those in which there is nothing to strike."""
    missing = set(get_args(Point)) - _KINDS.keys()
    assert not missing, f"no case has the crash points {sorted(missing)}"
    cases = [Case(point, fault, kind) for point, kinds in _KINDS.items() for fault in FAULTS for kind in kinds]
    return [case for case in cases if not case.is_vain]


def share(random: Random, size: int) -> list[Case]:
    """Return some of the cases, so that each point comes once before any comes twice, each fault about as often."""
    left = matrix()
    random.shuffle(left)
    chosen: list[Case] = []
    times: Counter[str] = Counter()
    while len(chosen) < size:
        for point in sorted({case.point for case in left}):
            case = min((each for each in left if each.point == point), key=lambda each: times[each.fault])
            times[case.fault] += 1
            chosen.append(case)
            left.remove(case)
    random.shuffle(chosen)
    return chosen[:size]
