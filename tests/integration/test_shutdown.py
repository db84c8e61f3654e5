"""A worker that is told to stop, by dramatiq's own threads on a real Valkey."""

from __future__ import annotations

import threading
import time

import dramatiq
import pytest
from dramatiq.middleware import SkipMessage

import collectkit
from collectkit import collector, cron, logs
from collectkit.boot import WorkerBoot
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.interrupts import CarefulShutdown


@pytest.fixture
def begun(db, broker_url):
    """Tells of each run of a collector that is due."""
    begun = threading.Event()

    @collector(periodic=cron("0 * * * *"), name="tests.begun")
    def tests_begun(run):
        begun.set()

    db.enrol(tests_begun)
    return begun


@pytest.fixture
def worker(begun):
    made = dramatiq.Worker(broker, worker_threads=1, worker_timeout=20)
    yield made
    made.stop()


def nudge():
    broker.enqueue(broker.actors["tests.begun"].message())


def test_a_worker_that_has_told_its_runs_to_end_begins_no_other(worker, begun):
    worker.start()

    # As in Worker.stop(), whose threads take messages until the last of them has been told.
    broker.emit_before("worker_shutdown", worker)
    nudge()
    give_up = time.monotonic() + 30
    while broker.client.llen("collectkit:collectors") or worker.work_queue.unfinished_tasks:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    worker.stop()

    assert ledger_db.run("SELECT id FROM collectkit.run") == []
    assert not begun.is_set()


def test_another_worker_of_the_same_process_takes_messages_again(worker, begun):
    message = broker.actors["tests.begun"].message()
    broker.emit_before("worker_shutdown", worker)
    with pytest.raises(SkipMessage):
        broker.emit_before("process_message", message)
    broker.emit_after("skip_message", message)

    broker.emit_after("worker_shutdown", worker)

    broker.emit_before("process_message", message)
    broker.emit_after("process_message", message)


def test_a_worker_sweeps_no_more_when_it_tells_its_runs_to_end(db, broker_url, monkeypatch):
    monkeypatch.setenv("COLLECTKIT_COLLECTORS", "collectors.example")
    monkeypatch.setenv("COLLECTKIT_DATABASE_URL", db.settings.database_url)
    monkeypatch.setenv("COLLECTKIT_BROKER_URL", broker_url)
    monkeypatch.setattr(logs, "configure", lambda _: None)
    before = list(broker.middleware)

    try:
        collectkit.setup()
        kinds = [type(each) for each in broker.middleware]
    finally:
        broker.middleware[:] = before

    assert kinds.index(WorkerBoot) < kinds.index(CarefulShutdown)


def test_no_instance_begins_when_the_notice_came_while_the_one_before_it_ended(db):
    begun = []

    @collector(periodic=cron("0 * * * *"), each=lambda: ["a", "b"], name="tests.each")
    def tests_each(run):
        begun.append(run.key)
        broker.emit_before("worker_shutdown", None)

    db.enrol(tests_each)
    try:
        tests_each()
    finally:
        broker.emit_after("worker_shutdown", None)

    assert begun == ["a"]
    assert ledger_db.run("SELECT outcome FROM collectkit.run") == [("OK",)]
