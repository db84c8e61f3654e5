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
_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_IN_A_RUN, RUNS),
    **dict.fromkeys(("load.staged", "load.middle"), ("seventh", "events", "snap")),
    **dict.fromkeys(("fetch.before", "fetch.middle", "fetch.after"), ("snap",)),
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
    """Return every case there is."""
    missing = set(get_args(Point)) - _KINDS.keys()
    assert not missing, f"no case has the crash points {sorted(missing)}"
    return [Case(point, fault, kind) for point, kinds in _KINDS.items() for fault in FAULTS for kind in kinds]


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
