"""What processes do with runs, as rules of a state machine: claim, renew, write, close, sweep.

Three threads with connections of their own stand for three processes. Each of them may act on any run that it ever
won, also on one that was closed long ago, as a process does that was stopped and wakes up. Time passes when the machine
says so, and may go back.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import peewee
import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from collectkit import ledger
from collectkit.acl import RunScope
from collectkit.closing import close_lost, closing
from collectkit.database import database, ledger_db
from collectkit.errors import CheckpointRefused, LeaseLost
from collectkit.ledger import Claim, Lapsed
from collectkit.run import Run
from tests.chaos.clock import Clock
from tests.chaos.ledger_model import TTL, Ledger, Row

BEGINNING = datetime(2031, 3, 30, 0, 59, 30, tzinfo=UTC)
PROCESSES = 3
SKEW = timedelta(minutes=1)
BACKOFF = timedelta(minutes=2)

names = st.sampled_from(["base", "base", "derived", "follower"])
processes = st.integers(0, PROCESSES - 1)
untils = st.sampled_from([None, -7200, -61, -60, -5, 0, 0, 0, 60, 61])
metas = st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.integers(0, 2), max_size=2)
outcomes = st.sampled_from(["OK", "OK", "FAILED", "FAILED", "HANDED_OVER", "REVOKED"])
# The last ones most often: those that were closed long ago are all refused for the same reason.
which = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8])


@dataclass
class Held:
    """A run that a process won, and its checkpoint if one is open."""

    process: int
    claim: Claim
    run: Run
    until: datetime | None
    """The watermark, as the run must know it: in a dry run it is that run's alone."""

    open: ExitStack | None = None
    pending: tuple[Any, ...] = ()
    locks: bool = False
    is_ended: bool = False
    """Whether a sweep has ended its backend."""


class Runs(RuleBasedStateMachine):
    """The rules, and the acts with which they are carried out. ``clock`` is set by the test."""

    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.processes = [ThreadPoolExecutor(1) for _ in range(PROCESSES)]
        self.runs: list[Held] = []
        self.seen: list[Lapsed] = []
        self.ledger = Ledger(BEGINNING)

    @rule(passed=st.sampled_from([1, 9, 11, 29, 31, 200, 3600, 90_000]))
    def time_passes(self, passed: int) -> None:
        self.set_clock(self.ledger.now + timedelta(seconds=passed))

    @rule(back=st.sampled_from([2, 45, 4000]))
    def the_clock_goes_back(self, back: int) -> None:
        self.set_clock(self.ledger.now - timedelta(seconds=back))

    @rule(
        process=processes,
        name=names,
        force=st.sampled_from([True, True, False]),
        dry=st.sampled_from([False] * 5 + [True]),
    )
    def a_process_claims(self, process: int, name: str, force: bool, dry: bool) -> None:
        row = self.ledger.rows[name]
        wins = self.ledger.is_startable(row) and (force or self.ledger.is_claimable(row))
        trigger: ledger.Trigger = "inline" if force else "due"

        claim = self.on(
            process,
            lambda: ledger.claim(name, ttl=TTL, worker=f"p{process}", trigger=trigger, force=force, dry_run=dry),
        )

        assert (claim is not None) == wins
        if claim is not None:
            row.be_claimed(claim.token, self.ledger.now)
            assert (claim.fence, claim.attempt, claim.scheduled_for) == (row.fence, row.attempt, row.scheduled_for)
            assert claim.started_at == self.ledger.now
            run = Run(claim, key=None, deadline=BEGINNING, lease_ttl=TTL, scope=RunScope(None))
            self.runs.append(Held(process, claim, run, row.until))

    @precondition(lambda self: self.runs)
    @rule(process=processes)
    def a_process_renews(self, process: int) -> None:
        mine = [held for held in self.runs if held.process == process]

        lost = self.on(process, lambda: ledger.renew([held.claim for held in mine], TTL))

        still = {held.claim.token for held in mine if self.row(held).holder == held.claim.token}
        assert lost == {held.claim.token for held in mine} - still
        for row in self.ledger.rows.values():
            if row.holder in still and not row.locked:
                row.lease_until = self.ledger.now + TTL

    @precondition(lambda self: self.runs)
    @rule(
        number=which,
        ahead=untils,
        complete=st.booleans(),
        meta=metas,
        ends=st.sampled_from(["commits", "commits", "changes", "fails", "stays open", "stays open and locks"]),
    )
    def a_run_makes_a_checkpoint(
        self, number: int, ahead: int | None, complete: bool, meta: dict[str, Any], ends: str
    ) -> None:
        held = self.pick(number, self.runs)
        row = self.row(held)
        is_busy = any(each.open for each in self.runs if each.process == held.process)
        if is_busy or row.locked or any(each.locked for each in self.ledger.followers(row.name)):
            return
        wanted, stored = None if ahead is None else self.ledger.now + timedelta(seconds=ahead), held.until
        too_late = wanted is not None and wanted > self.ledger.now + SKEW
        too_early = wanted is not None and stored is not None and wanted < stored - SKEW
        until = None if wanted is None else max(filter(None, (min(wanted, self.ledger.now), stored)))

        if ends == "stays open and locks" and not row.is_held_by(held.claim):
            ends = "stays open"  # the guard finds no row that it could lock

        error = self.on(held.process, lambda: _raised(lambda: _begin(held, wanted, complete, meta, ends)))

        if too_late or too_early or (complete and wanted is None and stored is None):
            assert isinstance(error, CheckpointRefused)
            return
        assert error is None
        held.pending = (until, complete, meta)
        row.locked = held.locks
        if not ends.startswith("stays open"):
            self._finish(held, ends)

    @precondition(lambda self: any(held.open for held in self.runs))
    @rule(number=which)
    def an_open_checkpoint_ends(self, number: int) -> None:
        held = self.pick(number, [each for each in self.runs if each.open])
        if not self.row(held).locked or held.locks:
            self._finish(held, "commits")

    @precondition(lambda self: self.runs)
    @rule(number=which, outcome=outcomes)
    def a_run_is_closed(self, number: int, outcome: Any) -> None:
        held = self.pick(number, self.runs)
        row, claim = self.row(held), held.claim
        if row.locked:
            return
        error = None if outcome == "OK" else "no"
        how = closing(claim, outcome, at=claim.started_at, backoff=BACKOFF, error=error)

        closed = self.on(held.process, lambda: ledger.close(claim, how, TTL))

        assert closed == row.is_held_by(claim)
        if closed:
            row.give_back(claim, outcome, self.ledger.now, BACKOFF, error)

    @rule(process=processes)
    def a_sweep_looks_for_the_lapsed(self, process: int) -> None:
        self.seen = self.on(process, lambda: ledger.lapsed(TTL))

        lapsed = [row.name for row in self.ledger.rows.values() if row.is_lapsed(self.ledger.now)]
        assert [each.name for each in self.seen] == lapsed

    @precondition(lambda self: self.seen)
    @rule(process=processes)
    def a_sweep_closes_what_it_saw(self, process: int) -> None:
        """Anything may have happened since it looked."""
        for lost in self.seen:
            row = self.ledger.rows[lost.name]
            is_lost = row.is_held_by(lost) and row.is_lapsed(self.ledger.now)
            for held in self.runs:
                if held.claim.run == lost.run and held.open:
                    held.is_ended = True
                    row.locked = row.locked and not held.locks

            assert self.on(process, lambda lost=lost: close_lost(lost, TTL)) == is_lost

            if is_lost:
                words = f"lost: {lost.worker} stopped renewing run {lost.run} (attempt {lost.attempt} of "
                row.give_back(lost, "LOST", self.ledger.now, BACKOFF, f"{words}{lost.max_attempts})")

    @rule(process=processes, room=st.integers(0, 3))
    def a_sweep_nudges(self, process: int, room: int) -> None:
        expected = self.ledger.to_nudge()[:room]

        found = self.on(process, lambda: ledger.due(list(self.ledger.rows), room))

        assert sorted(found) == sorted(expected)
        for name in expected:
            self.ledger.rows[name].nudged = self.ledger.now

    def set_clock(self, moment: datetime) -> None:
        """Have all processes see this time."""
        self.ledger.now = moment
        self.clock.stand(moment)

    def on(self, process: int, act: Any) -> Any:
        """Have a process do it."""
        return self.processes[process].submit(act).result()

    def pick(self, number: int, runs: list[Held]) -> Held:
        """Return one of them, counted from the last."""
        return runs[-1 - number % len(runs)]

    def row(self, held: Held) -> Row:
        """Return the row that the run was won of."""
        return self.ledger.rows[held.claim.name]

    def end(self) -> None:
        """Have all processes let go of what they have."""
        for held in self.runs:
            if held.open:
                self.on(held.process, lambda held=held: _raised(held.open.close))
        for each in self.processes:
            each.submit(ledger_db.let_go).result()
            each.submit(database.close).result()
            each.shutdown()

    def _finish(self, held: Held, how: str) -> None:
        row, (until, complete, meta) = self.row(held), held.pending
        stack, held.open = held.open, None

        error = self.on(held.process, lambda: _raised(lambda: _end(stack, how)))

        row.locked = row.locked and not held.locks
        if how == "fails":
            assert isinstance(error, ZeroDivisionError)
        elif held.is_ended:
            assert isinstance(error, peewee.OperationalError | peewee.InterfaceError | psycopg.OperationalError)
        elif not row.is_held_by(held.claim):
            assert isinstance(error, LeaseLost)
        else:
            assert error is None
            held.until = until or held.until
            assert held.run.updated_until_dt == held.until
            if not held.claim.dry_run:
                row.write(until, complete, meta)
                for each in self.ledger.followers(row.name) if how == "changes" else ():
                    each.pull(self.ledger.now)
                    each.nudged = None
        held.locks = held.is_ended = False


def _begin(held: Held, wanted: datetime | None, complete: bool, meta: dict[str, Any], how: str) -> None:
    with ExitStack() as stack:
        stack.enter_context(held.run.checkpoint(wanted, complete, meta))
        held.locks = how == "stays open and locks"
        if how == "changes":
            database.execute_sql("INSERT INTO written VALUES (1)")
        if held.locks:
            # As after the guard and before the COMMIT.
            lock = "SELECT FROM collectkit.collector WHERE name = %s FOR NO KEY UPDATE"
            database.execute_sql(lock, (held.claim.name,)).fetchall()
        held.open = stack.pop_all()


def _end(stack: ExitStack, how: str) -> None:
    with stack:
        if how == "fails":
            raise ZeroDivisionError


def _raised(act: Any) -> BaseException | None:
    try:
        act()
    except (Exception, LeaseLost) as error:  # noqa: BLE001 - the machine says which one it should be
        return error
    return None
