"""How runs end: whatever an author's function raises or says, and whenever an interrupt strikes."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

import peewee
import pytest
from dramatiq.middleware import Interrupt, Shutdown

from collectkit import Model, collector, cron
from collectkit.broker import broker
from collectkit.database import database, ledger_db
from collectkit.maintenance import leases

HOURLY = cron("0 * * * *")
LIBRARY = Path(__file__).parents[2] / "collectkit"
MODULES = ("actor", "maintenance", "run", "database", "connections", "ledger", "closing", "scope")
WAY = {str(LIBRARY / f"{module}.py") for module in MODULES}


class Kept(Model):
    id = peewee.IntegerField(primary_key=True)
    word = peewee.TextField()
    other = peewee.TextField()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.fixture
def ending(db):
    """Run a function once, and return how its run ended, with what the ledger says of it."""

    def run_it(fn, **options):
        declared = collector(**{"periodic": HOURLY, "name": "tests.ending", "data_models": [Kept]} | options)(fn)
        db.enrol(declared)
        outcome = declared.run_now()
        ((attempt, waits),) = ledger_db.run("SELECT attempt, next_due_at > clock_timestamp() FROM collectkit.collector")
        return outcome, attempt, waits

    return run_it


@pytest.fixture
def stopping(monkeypatch):
    """This process has been told to stop, as its worker's middleware notes."""
    monkeypatch.setattr(broker.shutdown, "is_over", True)


def raising(error):
    def fn(_run):
        raise error

    return fn


def test_a_write_outside_a_checkpoint_fails_and_says_where_it_belongs(ending):
    outcome, _, _ = ending(lambda _run: Kept.insert(id=1, word="x", other="y").execute())

    assert outcome.outcome == "FAILED"
    assert "cannot execute INSERT in a read-only transaction: write inside `with run.checkpoint(...)`" in outcome.reason


@pytest.mark.parametrize("word", ["a\0b", "a\ud800b"])
def test_what_the_database_cannot_store_is_no_reason_to_lose_a_run(ending, word):
    outcome, _, _ = ending(lambda _run: word)

    assert outcome.outcome == "OK"
    assert ledger_db.run("SELECT result FROM collectkit.run") in ([("a\ufffdb",)], [("a?b",)])


def test_nor_is_an_error_that_it_cannot_store(ending):
    outcome, attempt, _ = ending(raising(ValueError("a\0b")))

    assert (outcome.outcome, outcome.reason, attempt) == ("FAILED", "ValueError: a\ufffdb", 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncio.CancelledError(), "CancelledError: "),
        (SystemExit(3), "called sys.exit(3)"),
        (Interrupt("enough"), "Interrupt: enough"),
        (Shutdown(), "Shutdown: "),
        (Speechless(), "Speechless: (its message cannot be shown)"),
    ],
)
def test_whatever_an_author_raises_is_a_failure_that_counts_and_waits(ending, error, reason):
    outcome, attempt, waits = ending(raising(error))

    assert (outcome.outcome, outcome.reason) == ("FAILED", reason)
    assert (attempt, waits) == (1, True)


def test_a_failure_is_logged_with_its_place_and_without_the_row(ending, caplog):
    def insert(run):
        with run.checkpoint(run.started_at):
            database.execute_sql("INSERT INTO kept (id, word) VALUES (1, 'hidden')")

    outcome, _, _ = ending(insert)

    assert outcome.reason.startswith('IntegrityError: null value in column "other"')
    assert "in insert" in caplog.text
    assert "which came from" in caplog.text
    assert "hidden" not in caplog.text.replace("'hidden')\")", "")  # its own line of source


def test_a_value_that_postgresql_refuses_is_not_told(ending, caplog):
    hidden = "hidden-word"

    def fn(run):
        with run.checkpoint(run.started_at):
            database.execute_sql("INSERT INTO kept VALUES (%s::text::integer, '', '')", (hidden,))

    outcome, _, _ = ending(fn)

    assert outcome.reason == "DataError: invalid input syntax for type integer"
    assert hidden not in caplog.text


def test_a_person_who_interrupts_a_run_ends_the_command_too_and_the_run_is_handed_over(ending):
    with pytest.raises(KeyboardInterrupt):
        ending(raising(KeyboardInterrupt()))

    assert ledger_db.run("SELECT outcome, error FROM collectkit.run") == [
        ("HANDED_OVER", "handed over: the process was told to stop")
    ]


@pytest.mark.usefixtures("stopping")
def test_a_run_that_is_told_to_stop_lets_no_other_instance_begin(db):
    begun = []

    @collector(periodic=HOURLY, each=lambda: ["a", "b"], name="tests.stopping")
    def tests_stopping(run):
        begun.append(run.key)
        raise Shutdown

    db.enrol(tests_stopping)
    tests_stopping()

    assert begun == ["a"]


@pytest.mark.usefixtures("stopping")
def test_what_a_checkpoint_committed_is_counted_even_if_the_run_never_heard_of_it(ending, monkeypatch):
    def insert(run):
        monkeypatch.setattr(run, "_move_on", lambda *_, **__: (_ for _ in ()).throw(Shutdown))
        with run.checkpoint(run.started_at) as batch:
            batch.upsert(Kept, [{"id": 1, "word": "a", "other": "b"}])

    outcome, _, _ = ending(insert)

    assert outcome.outcome == "HANDED_OVER"
    assert ledger_db.run("SELECT counts->>'inserted' FROM collectkit.run") == [("1",)]


class Interruption:
    """Raises in this thread where one of our functions begins, or has returned: the n-th of these places."""

    def __init__(self, number):
        self.left = number
        self.begun = False

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(self.before)  # coverage's, perhaps

    def __call__(self, frame, event, _argument):
        if frame.f_code.co_filename not in WAY:
            return None
        # Before the run is held there is nothing to let go of; a claim that is interrupted is lost, as in a crash.
        self.begun = self.begun or frame.f_code.co_name == "hold"
        if self.begun and event in {"call", "return"} and frame.f_code.co_name not in {"_perform", "__call__"}:
            self.left -= 1
            if self.left == 0:
                raise Shutdown
        return self


@pytest.mark.usefixtures("stopping")
def test_an_interrupt_at_any_moment_leaves_the_run_closed_and_the_thread_clean(db):
    @collector(periodic=HOURLY, name="tests.interrupted", data_models=[Kept])
    def interrupted(run):
        with run.checkpoint(run.started_at) as batch:
            batch.upsert(Kept, [{"id": 1, "word": str(run.id), "other": ""}])

    db.enrol(interrupted)
    logging.disable(logging.ERROR)
    number, outcomes = 0, set()
    try:
        while True:
            number += 1
            ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp()")
            interruption = Interruption(number)
            with suppress(Shutdown), interruption:  # one that comes after the close has nothing to stop
                interrupted()
            if interruption.left > 0:
                break
            outcomes |= set(ledger_db.run("SELECT outcome FROM collectkit.run"))
            assert not leases._held
            assert not database._state.transactions
            assert database.is_closed() or not database.in_transaction()
    finally:
        logging.disable(logging.NOTSET)

    assert number > 100
    assert outcomes == {("OK",), ("HANDED_OVER",)}
