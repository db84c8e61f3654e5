"""Who waits for whom, as a state machine: collectors of a random graph, nudged in any order, against the rules.

What a nudge starts, what a sweep would nudge, and what the status says about everybody have to agree at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import peewee
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from collectkit import Collector, Model, Run, collector, cron, ledger, read_status
from collectkit.broker import broker
from collectkit.database import database, ledger_db
from collectkit.discovery import describe
from collectkit.migrate import migrate
from tests.chaos.clock import Clock

BEGINNING = datetime(2031, 6, 1, 12, 0, 30, tzinfo=UTC)
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
HOURLY = cron("0 * * * *")
NAMES = [f"machine.n{number}" for number in range(5)]


class Noted(Model):
    name = peewee.TextField()


@dataclass
class Node:
    """One collector, as it should stand."""

    needs: list[str]
    after: list[str]
    due: datetime
    is_complete: bool = False
    runs: int = 0


class DependencyMachine(RuleBasedStateMachine):
    """See the module. ``clock`` is set by the test."""

    clock: Clock

    @initialize(edges=st.lists(st.sampled_from(["needs", "after", "both", "", ""]), min_size=10, max_size=10))
    def begin(self, edges: list[str]) -> None:
        self.now = BEGINNING
        self.clock.stand(self.now)
        self.nodes: dict[str, Node] = {}
        self.collectors: dict[str, Collector] = {}
        self.teardown()
        for number, name in enumerate(NAMES):
            kinds = {earlier: edges.pop() for earlier in NAMES[:number]}
            needs, after = (
                [other for other, kind in kinds.items() if kind in {wanted, "both"}] for wanted in ("needs", "after")
            )
            self.nodes[name] = Node(needs, after, self.now)
            periodic = HOURLY if number % 2 or not after else None
            self.collectors[name] = collector(
                periodic=periodic, depends_on=needs, after=after, data_models=[Noted], name=name
            )(self._run)
        ledger_db.run("TRUNCATE collectkit.run, collectkit.collector")
        migrate(describe(self.collectors.values()))

    def teardown(self) -> None:
        for name in NAMES:
            broker.actors.pop(name, None)

    @rule(passed=st.sampled_from([1, 61, 1800, 3600]))
    def time_passes(self, passed: int) -> None:
        self.now += timedelta(seconds=passed)
        self.clock.stand(self.now)

    @rule(name=st.sampled_from(NAMES), completes=st.booleans(), changes=st.booleans())
    def it_is_nudged(self, name: str, completes: bool, changes: bool) -> None:
        node = self.nodes[name]
        starts = self._is_claimable(node)
        self.completes, self.changes = completes, changes

        self.collectors[name]()

        if starts:
            self._has_run(name, completes, changes)

    @rule()
    def all_are_nudged_until_nothing_is_due(self) -> None:
        """Each gets its turn, and none waits for its next tick once it is unblocked."""
        self.completes, self.changes = True, True
        for name, node in self.nodes.items():
            starts = self._is_claimable(node)
            self.collectors[name]()
            if starts:
                self._has_run(name, completes=True, changes=True)

        # Whoever is incomplete now waits for its own tick, or for another one that does.
        assert ledger.due(NAMES, 10) == []

    @rule(name=st.sampled_from(NAMES))
    def somebody_asks_for_a_run(self, name: str) -> None:
        ledger.request(name, "somebody", None)

        self.nodes[name].due = min(self.nodes[name].due, self.now)

    @invariant()
    def runs_sweep_and_status_agree_with_the_graph(self) -> None:
        counted = dict(ledger_db.run("SELECT collector, count(*) FROM collectkit.run WHERE outcome = 'OK' GROUP BY 1"))
        ledger_db.run("UPDATE collectkit.collector SET nudged_at = NULL")
        assert set(ledger.due(NAMES, 10)) == {name for name, node in self.nodes.items() if self._is_claimable(node)}
        for name, status in read_status().items():
            node = self.nodes[name]
            blocked_by = [other for other in node.needs if not self.nodes[other].is_complete]
            is_due = node.due <= self.now
            assert counted.get(name, 0) == node.runs, name
            assert sorted(status.blocked_by) == blocked_by, name
            assert (status.state == "BLOCKED") == (is_due and bool(blocked_by)), (name, status.state)
            assert status.is_complete == node.is_complete
            assert (status.next_due or FOREVER) == node.due

    def _run(self, run: Run) -> None:
        with run.checkpoint(run.started_at if self.completes else None, self.completes or run.is_complete):
            if self.changes:
                database.execute_sql("INSERT INTO noted (name) VALUES (%s)", (run.name,))

    def _is_claimable(self, node: Node) -> bool:
        return node.due <= self.now and all(self.nodes[other].is_complete for other in node.needs)

    def _has_run(self, name: str, completes: bool, changes: bool) -> None:
        node = self.nodes[name]
        node.runs += 1
        node.is_complete |= completes
        periodic = self.collectors[name].declared.periodic
        node.due = FOREVER if periodic is None else periodic.next_tick(self.now)
        for other in self.nodes.values():
            if name in other.after and changes:
                other.due = min(other.due, self.now)
