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
_WHO_COMES_BY: dict[str, tuple[str, ...]] = {
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
# Where whoever comes by may have nothing more to say to PostgreSQL, so that no answer can be lost.
_MAY_BE_SILENT = {
    "close.answered", "run.closed",  # these were a thread's last words, until it is given another nudge
    "renew.answered",  # the run may end before its lease is renewed again
    "interrupt.before",  # the thread that renews leases is silent if the run that it interrupts was its only one
    "shutdown.before",  # the worker that is told to stop may be the one without a run
}  # fmt: skip
_LOADED_INTO = {"seventh": "seventh", "events": "event", "snap": "snap"}


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

        A statement that is not sent has no answer to lose: those cases are counted.
        """
        return self.fault != "lose" or self.point not in _MAY_BE_SILENT

    @property
    def strikes_all_connections(self) -> bool:
        """Whether all connections of the process are struck, and not those alone that the thread has which comes by.

        One that starts has none yet, and that of a migration the point does not know. Whoever stops says nothing
        itself: it is its runs that do.
        """
        return self.point in {"start.setup", "shutdown.before"} or self.point.startswith("migrate.")

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
            return _LOADED_INTO[self.kind]
        return "chaos.snap" if family == "reconcile" else self.collector


def matrix() -> list[Case]:
    """Return every case there is, but those in which there is nothing to strike."""
    missing = set(get_args(Point)) - _WHO_COMES_BY.keys()
    assert not missing, f"no case has the crash points {sorted(missing)}"
    cases = [Case(point, fault, kind) for point, kinds in _WHO_COMES_BY.items() for fault in FAULTS for kind in kinds]
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
