"""An interrupt that comes when a run has ended by itself changes nothing of how it is closed."""

from __future__ import annotations

import logging

import pytest
from dramatiq.middleware import Shutdown

from collectkit import collector, cron
from collectkit.database import database, ledger_db
from collectkit.maintenance import leases


@pytest.fixture
def running(db):
    """Enrol a function as a collector and run it once."""

    def run_it(fn):
        declared = collector(periodic=cron("0 * * * *"), name="tests.ended")(fn)
        db.enrol(declared)
        return declared.run_now()

    return run_it


def outcomes():
    return [outcome for (outcome,) in ledger_db.run("SELECT outcome FROM collectkit.run")]


def test_a_shutdown_that_strikes_between_the_end_of_a_run_and_its_close_does_not_keep_it_from_being_closed(
    running, monkeypatch
):
    release, struck = database.release, []

    def strike_once():
        if not struck:
            struck.append(True)
            raise Shutdown
        release()

    monkeypatch.setattr(database, "release", strike_once)
    outcome = running(lambda run: run.store(run.started_at))

    assert struck
    assert (outcome.outcome, outcomes()) == ("OK", ["OK"])


def test_a_run_that_failed_is_out_of_reach_of_interrupts_while_it_writes_its_trace(running):
    held = []

    class Watch(logging.Handler):
        def emit(self, record):
            if "failed" in record.getMessage():
                held.append(dict(leases._held))

    def fail(_):
        raise ValueError("no")

    watch = Watch()
    logging.getLogger("tests.ended").addHandler(watch)
    try:
        outcome = running(fail)
    finally:
        logging.getLogger("tests.ended").removeHandler(watch)

    assert outcome.outcome == "FAILED"
    assert held == [{}]
