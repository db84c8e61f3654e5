"""The database away for a while: nudges, renewal, sweep, scheduler and close go on as soon as it is back."""

from __future__ import annotations

import signal
import sys
import threading
import time
from datetime import timedelta

import psycopg
import pytest

from collectkit import collector, cron, ledger
from collectkit.actor import Collector
from collectkit.broker import LONGEST_QUEUE, broker
from collectkit.database import ledger_db
from collectkit.errors import CollectkitError
from collectkit.maintenance import Sweep, leases
from collectkit.scheduler import Scheduler

TTL = timedelta(seconds=0.3)
SHORT = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)
NAME, OTHER = "tests.away", "tests.other"


@pytest.fixture
def away(db):
    """Enrol a function as a collector that can be asked to run."""

    def enrol(fn=lambda _run: None, name=NAME):
        declared = collector(periodic=cron("0 * * * *"), name=name)(fn)
        db.enrol(declared)
        return declared

    return enrol


def until(what, seconds=60):
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def lapse(name):
    ledger.claim(name, ttl=TTL, worker="dead")
    ledger_db.run(
        "UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s' WHERE name = %(name)s",
        {"name": name},
    )


def outcomes():
    return dict(ledger_db.run("SELECT collector, outcome FROM collectkit.run"))


def test_a_nudge_that_finds_the_database_away_says_so_and_is_made_up_for(proxy, away, caplog):
    ran = []
    declared = away(lambda run: ran.append(run.id))
    proxy.refuse(True)

    declared()
    proxy.refuse(False)
    said, before = caplog.text, list(ran)
    declared()

    assert f"{NAME} was not looked at, the next sweep will: PostgreSQL did not answer" in said
    assert (before, len(ran)) == ([], 1)


def test_leases_are_renewed_again_once_the_database_is_back(proxy, away, caplog):
    away()
    held = ledger.claim(NAME, ttl=TTL, worker="here")
    leases.hold(held, TTL, HOUR)
    try:
        proxy.refuse(True)
        until(lambda: "leases could not be renewed: PostgreSQL did not answer" in caplog.text)
        proxy.refuse(False)
        ((before,),) = ledger_db.read("SELECT clock_timestamp() + interval '1 s'")

        until(
            lambda: ledger_db.read("SELECT lease_until > %(before)s FROM collectkit.collector", {"before": before})[0][
                0
            ]
        )
    finally:
        leases.let_go(held)


def test_the_threads_go_on_whatever_a_sweep_raises_and_say_the_same_thing_once(away, caplog):
    away()
    raised = [CollectkitError("no broker"), CollectkitError("no broker"), ValueError("odd"), None]
    over = threading.Event()

    def nudge():
        error = raised.pop(0)
        if error is not None:
            raise error
        ledger_db.let_go()
        over.set()

    sweep = Sweep(timedelta(seconds=0.06), nudge)
    sweep.start()

    assert over.wait(60)
    sweep.stop()
    assert caplog.text.count("sweep: no broker") == 1
    assert "a sweep failed, the next follows" in caplog.text
    assert "ValueError: odd" in caplog.text


def test_a_row_that_cannot_be_closed_keeps_no_other_lost(away, postgres_url, caplog):
    away()
    away(name=OTHER)
    for name in (NAME, OTHER):
        lapse(name)
    sweep = Sweep(SHORT, list)

    with psycopg.connect(postgres_url) as stuck:
        stuck.execute("SELECT 1 FROM collectkit.collector WHERE name = %s FOR UPDATE", (NAME,))
        sweep.once()
        half = outcomes()
    sweep.once()

    assert half == {NAME: "RUNNING", OTHER: "LOST"}
    assert f"of {NAME} could not be closed as LOST yet" in caplog.text
    assert outcomes() == {NAME: "LOST", OTHER: "LOST"}


def test_a_scheduler_says_once_that_the_database_is_away_and_nudges_when_it_is_back(proxy, away, broker_url, caplog):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    scheduler = Scheduler([away()])
    proxy.refuse(True)

    def watch():
        until(lambda: "PostgreSQL did not answer" in caplog.text)
        time.sleep(1.2)  # it tries again, and says no more
        proxy.refuse(False)
        until(lambda: broker.room("collectors") < LONGEST_QUEUE)
        signal.raise_signal(signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        scheduler.loop()
    finally:
        watcher.join()
        for number, handler in before.items():
            signal.signal(number, handler)

    assert caplog.text.count("PostgreSQL did not answer") == 1
    assert broker.room("collectors") == LONGEST_QUEUE - 1


def test_a_close_is_tried_until_the_database_is_back(proxy, away):
    def leave(_run):
        proxy.refuse(True)
        threading.Timer(0.5, proxy.refuse, [False]).start()
        return "done"

    outcome = away(leave).run_now()

    assert outcome.outcome == "OK"
    assert ledger_db.run("SELECT outcome, result FROM collectkit.run") == [("OK", "done")]


def test_a_run_that_cannot_be_closed_says_what_will_become_of_it(proxy, away, monkeypatch):
    monkeypatch.setattr(sys.modules[Collector.__module__], "_CLOSE_PATIENCE", 0.3)

    outcome = away(lambda _run: proxy.refuse(True)).run_now()
    proxy.refuse(False)

    assert outcome.outcome == "LOST"
    assert outcome.reason.startswith("OK, but not closed, so LOST when its lease lapses: DatabaseUnavailable: ")
    assert outcomes() == {NAME: "RUNNING"}
