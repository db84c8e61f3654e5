"""The ledger as a state machine: what processes, people and deployments do with it, in any order, against the model."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from collectkit import ledger, statements
from collectkit.acl import RunScope
from collectkit.closing import close_lost, closing
from collectkit.database import ledger_db
from collectkit.declaration import Declaration
from collectkit.discovery import Discovered
from collectkit.migrate import reconcile
from collectkit.run import Run
from tests.chaos.ledger_model import COLUMNS, TTL, Row
from tests.chaos.ledger_runs import BEGINNING, Runs, names, processes

_PAUSE = """
UPDATE collectkit.collector SET paused_at = CASE WHEN %(paused)s THEN coalesce(paused_at, clock_timestamp()) END,
       nudged_at = NULL WHERE name = %(name)s
"""


class LedgerMachine(Runs):
    """All of it."""

    @initialize(process=processes, name=names)
    def begin(self, process: int, name: str) -> None:
        # Most rules need a run: it does not wait for chance.
        self.clock.stand(BEGINNING)
        ledger_db.run("TRUNCATE collectkit.run, collectkit.collector")
        self._deploy(*self.ledger.rows.values())
        self.a_process_claims(process, name, force=False, dry=False)

    @rule(name=names)
    def somebody_asks_for_a_run(self, name: str) -> None:
        row = self.ledger.rows[name]
        if row.locked:
            return

        assert ledger.request(name, "somebody", None) == (not row.retired)

        if not row.retired:
            row.pull(self.ledger.now)
            row.nudged = None

    @rule(name=names, paused=st.sampled_from([True, False, False]))
    def somebody_pauses_or_resumes(self, name: str, paused: bool) -> None:
        row = self.ledger.rows[name]
        if not row.locked:
            ledger_db.run(_PAUSE, {"name": name, "paused": paused})
            row.paused, row.nudged = paused, None

    @rule(name=names, back=st.sampled_from([90, 5000]))
    def somebody_rewinds(self, name: str, back: int) -> None:
        row, to = self.ledger.rows[name], self.ledger.now - timedelta(seconds=back)
        if row.locked:
            return
        can_be = row.holder is None and row.until is not None and row.until > to
        stale_at = row.stale_from(to)

        rewound = ledger.rewind(
            name, to=to, stale_at=ledger.as_text(stale_at), dropped=["a"], by="somebody", note="again"
        )

        assert rewound == can_be
        if rewound:
            row.until, row.stale_at, row.attempt, row.next_due, row.nudged = to, stale_at, 0, self.ledger.now, None
            row.meta.pop("a", None)

    @rule(
        name=names,
        schedule=st.sampled_from(["0 * * * *", "*/10 * * * *", "30 2 * * *"]),
        enabled=st.sampled_from([True] * 7 + [False]),
        max_attempts=st.integers(1, 3),
    )
    def another_version_is_deployed(self, name: str, schedule: str, enabled: bool, max_attempts: int) -> None:
        row = self.ledger.rows[name]
        if not row.locked:
            row.declare(None if row.after else schedule, enabled, max_attempts, self.ledger.now)
            self._deploy(row)

    @rule(name=names, rarely=st.integers(0, 3))
    def a_version_without_it_is_deployed(self, name: str, rarely: int) -> None:
        row = self.ledger.rows[name]
        if not row.locked and not rarely:
            ledger_db.run(statements.RETIRE, {"names": [name]})
            row.retired = True

    @rule()
    def the_scheduler_heals(self) -> None:
        rows = [row for row in self.ledger.rows.values() if row.schedule]
        if any(row.locked for row in rows):
            return

        ledger.heal([row.name for row in rows])

        for row in rows:
            if row.holder is None and not row.retired:
                row.next_due = min(row.next_due, row.tick_from(self.ledger.now))

    @invariant()
    def the_ledger_is_what_the_rules_say(self) -> None:
        found = ledger_db.run(f"SELECT {COLUMNS} FROM collectkit.collector ORDER BY name")
        for row, expected in zip(found, sorted(self.ledger.rows), strict=True):
            differs = [
                pair for pair in zip(row, self.ledger.rows[expected].columns(), strict=True) if pair[0] != pair[1]
            ]
            assert not differs, f"{row[0]}, found and expected: {differs}"

    @invariant()
    def the_history_has_one_open_run_for_each_that_is_held(self) -> None:
        running = dict(ledger_db.run("SELECT collector, fence FROM collectkit.run WHERE outcome = 'RUNNING'"))
        assert running == {row.name: row.fence for row in self.ledger.rows.values() if row.holder}

    def teardown(self) -> None:
        """Whatever has happened: once those who hold something are gone, each collector runs."""
        self.end()
        self.set_clock(self.ledger.now + timedelta(days=2))
        for row in self.ledger.rows.values():
            row.declare(row.schedule, enabled=True, max_attempts=1, now=self.ledger.now)
        self._deploy(*self.ledger.rows.values())
        ledger_db.run("UPDATE collectkit.collector SET paused_at = NULL")
        for lost in ledger.lapsed(TTL):
            assert close_lost(lost, TTL)
        self.set_clock(self.ledger.now + timedelta(days=2))
        for name in self.ledger.rows:
            # Nothing but a change of what it follows makes one due that has no schedule; or somebody who asks.
            claim = ledger.claim(name, ttl=TTL, worker="last", force=name == "follower")
            assert claim is not None, name
            Run(claim, key=None, deadline=BEGINNING, lease_ttl=TTL, scope=RunScope(None)).store(
                updated_until_dt=claim.started_at
            )
            assert ledger.close(claim, closing(claim, "OK", at=claim.started_at), TTL)

    def _deploy(self, *rows: Row) -> None:
        declared = {
            row.name: Declaration(
                name=row.name,
                schedule=row.schedule,
                tz="UTC",
                depends_on=tuple(row.depends_on),
                after=row.after,
                data_models=(),
                enabled=row.enabled,
                max_attempts=row.max_attempts,
                fresh_for=None,
            )
            for row in rows
        }
        reconcile(Discovered((), {}, (), declared))
