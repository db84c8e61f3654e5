"""What runs store, as a state machine: rows, watermark, completeness and cursor, against their rules in plain Python.

Runs are real ones, by ``run_now``: each makes a few checkpoints, some of which break a rule, fail in the middle or only
pretend, and then ends well or badly. Time passes between them, and may go back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import peewee
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from collectkit import Model, Run, collector, cron, freshness
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.discovery import describe
from collectkit.errors import CheckpointRefused
from collectkit.migrate import migrate
from tests.chaos.clock import Clock

BEGINNING = datetime(2031, 10, 26, 0, 30, 0, 500, tzinfo=UTC)
HOURLY = cron("0 * * * *")
MINUTE = timedelta(minutes=1)
NAME = "machine.watermark"


class Kept(Model):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()


class Checkpoint(NamedTuple):
    """One that a run makes.

    Attributes:
        ahead: seconds from now to the watermark that it gives; None gives none.
        rows: what it loads; ``replaces`` tells whether that is all there is.
        fails: it raises before its end.
        is_unstorable: its ``meta`` is refused at the end, for PostgreSQL has no NUL.
    """

    ahead: float | None
    complete: bool
    meta: dict[str, Any]
    rows: dict[int, int]
    replaces: bool
    fails: bool

    @property
    def is_unstorable(self) -> bool:
        return any("\0" in str(value) for value in self.meta.values())


@dataclass
class Stored:
    """What there should be."""

    until: datetime | None = None
    is_complete: bool = False
    has_stored: bool = False
    meta: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Stored:
        """Return one that a dry run may change."""
        return Stored(self.until, self.is_complete, self.has_stored, dict(self.meta), dict(self.rows))

    def refuses(self, made: Checkpoint, now: datetime) -> bool:
        """Tell whether the checkpoint breaks a rule."""
        if made.ahead is None:
            return made.complete and self.until is None
        wanted = now + timedelta(seconds=made.ahead)
        return wanted > now + MINUTE or (self.until is not None and wanted < self.until - MINUTE)

    def take(self, made: Checkpoint, now: datetime) -> None:
        """Be what it is after the checkpoint."""
        if made.ahead is not None:
            wanted = min(now + timedelta(seconds=made.ahead), now)
            self.until = wanted if self.until is None else max(self.until, wanted)
        self.is_complete |= made.complete
        self.has_stored = True
        self.meta = {key: value for key, value in (self.meta | made.meta).items() if value is not None}
        self.rows = dict(made.rows) if made.replaces and made.rows else self.rows | made.rows


checkpoints = st.builds(
    Checkpoint,
    ahead=st.sampled_from([None, -4000.0, -60.000001, -60.0, -30.0, -0.000001, 0.0, 0.0, 0.0, 59.0, 60.0, 60.000001]),
    complete=st.booleans(),
    meta=st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 3) | st.text(max_size=2), max_size=2),
    rows=st.dictionaries(st.integers(0, 5), st.integers(0, 3), max_size=4),
    replaces=st.booleans(),
    fails=st.sampled_from([False] * 5 + [True]),
)


class WatermarkMachine(RuleBasedStateMachine):
    """See the module. ``clock`` is set by the test."""

    clock: Clock

    @initialize()
    def begin(self) -> None:
        self.stored = Stored()
        self.now = BEGINNING
        self.plan: list[Checkpoint] = []
        self.ends_badly = False
        self.clock.stand(self.now)
        broker.actors.pop(NAME, None)
        self.collector = collector(periodic=HOURLY, data_models=[Kept], name=NAME)(self._run)
        ledger_db.run("DROP TABLE IF EXISTS kept")
        ledger_db.run("TRUNCATE collectkit.run, collectkit.collector")
        migrate(describe([self.collector]))

    def teardown(self) -> None:
        broker.actors.pop(NAME, None)

    @rule(passed=st.sampled_from([0.000001, 30.0, 61.0, 3600.0, -20.0, -61.0, -5000.0]))
    def time_passes(self, passed: float) -> None:
        self.now += timedelta(seconds=passed)
        self.clock.stand(self.now)

    @rule(plan=st.lists(checkpoints, max_size=4), dry=st.sampled_from([False, False, True]), ends_badly=st.booleans())
    def it_runs(self, plan: list[Checkpoint], dry: bool, ends_badly: bool) -> None:
        self.plan, self.ends_badly = plan, ends_badly
        self.expected = self.stored.copy()

        outcome = self.collector.run_now(dry_run=dry)

        assert outcome.outcome == ("FAILED" if ends_badly else "OK"), outcome
        assert outcome.updated_until == self.expected.until
        if not dry:
            self.stored = self.expected

    @invariant()
    def what_is_stored_follows_the_rules(self) -> None:
        ((until, state, meta, stale_at),) = ledger_db.run(
            "SELECT updated_until_dt, data_state, meta_attr, stale_at FROM collectkit.collector"
        )
        rows = dict(ledger_db.run("SELECT id, value FROM kept"))
        assert (until, meta, rows) == (self.stored.until, self.stored.meta, self.stored.rows)
        partial = "PARTIAL" if self.stored.has_stored else "EMPTY"
        assert state == ("COMPLETE" if self.stored.is_complete else partial)
        assert stale_at == (until and HOURLY.next_tick(HOURLY.next_tick(until + MINUTE)))
        assert freshness(NAME).is_up2date == bool(self.stored.is_complete and stale_at and self.now < stale_at)

    def _run(self, run: Run) -> None:
        for made in self.plan:
            until = None if made.ahead is None else self.now + timedelta(seconds=made.ahead)
            refused = self.expected.refuses(made, self.now)
            try:
                with run.checkpoint(until, made.complete, made.meta) as batch:
                    assert not refused, f"{made} was not refused"
                    load = batch.replace if made.replaces and made.rows else batch.upsert
                    options = {"max_shrink": 1} if load == batch.replace else {}
                    load(Kept, [{"id": key, "value": value} for key, value in made.rows.items()], **options)
                    if made.fails:
                        raise ZeroDivisionError  # noqa: TRY301 - what fails in the middle
            except CheckpointRefused:
                assert refused or made.is_unstorable
            except ZeroDivisionError:
                pass
            else:
                assert not made.is_unstorable, f"{made} was not refused"
                self.expected.take(made, self.now)
            assert (run.updated_until_dt, run.is_complete, run.meta_attr) == (
                self.expected.until,
                self.expected.is_complete,
                self.expected.meta,
            )
        if self.ends_badly:
            raise ValueError("this run ends badly")
