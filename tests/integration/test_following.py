"""What a run leaves due when it has ended, without a sweep that would come by in time."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest

from collectkit import collector, cron, maintenance
from collectkit.boot import WorkerBoot
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.discovery import describe


def until(holds):
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def waiting():
    return broker.client.llen("collectkit:collectors")


@pytest.fixture
def boot(db, broker_url, monkeypatch):
    """Begins to sweep, as a worker process does: at once, and then not for an hour."""
    monkeypatch.setattr(maintenance, "SWEEP_INTERVAL", timedelta(hours=1))
    booted = []

    def begin(*collectors):
        db.enrol(*collectors)
        boot = WorkerBoot(msgspec.structs.replace(db.settings, lease_ttl=timedelta(days=1)), describe(list(collectors)))
        booted.append(boot)

        def begins():
            boot.before_worker_boot(broker, None)
            ledger_db.let_go()

        # Not in the main thread, where it would bind this process to its parent.
        thread = threading.Thread(target=begins)
        thread.start()
        thread.join()
        broker.add_middleware(boot)

    yield begin
    for boot in booted:
        broker.middleware.remove(boot)
        boot.before_worker_shutdown(broker, None)
    until(lambda: "collectkit-sweep" not in [thread.name for thread in threading.enumerate()])


def test_a_collector_is_nudged_as_soon_as_what_it_depends_on_is_complete(boot):
    @collector(periodic=cron("0 * * * *"), name="tests.first")
    def tests_first(run):
        run.store(updated_until_dt=run.started_at)

    @collector(periodic=cron("0 * * * *"), name="tests.second", depends_on=[tests_first])
    def tests_second(_): ...

    boot(tests_first, tests_second)
    until(lambda: waiting() == 1)

    tests_first()
    broker.emit_after("process_message", tests_first.message())

    until(lambda: waiting() == 2)


class StoppedInBetween(threading.Event):
    """Stops a sweep at the moment at which it takes note of a call."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def clear(self):
        self.stop()
        super().clear()


def test_a_sweep_that_is_called_all_the_time_rests_in_between(db):
    db.enrol()
    sweeps = []
    sweep = maintenance.Sweep(timedelta(days=1), lambda: sweeps.append(time.monotonic()))
    sweep.start()

    until(lambda: sweep.look_now() or len(sweeps) == 4)
    sweep.stop()

    assert all(later - earlier >= 0.1 for earlier, later in pairwise(sweeps))


def test_a_sweep_that_is_stopped_while_it_takes_note_of_a_call_ends(db, monkeypatch):
    monkeypatch.setattr(maintenance, "SWEEP_INTERVAL", timedelta(hours=1))
    db.enrol()
    sweep = maintenance.Sweep(timedelta(days=1), list)
    sweep._woken = StoppedInBetween(sweep.stop)

    sweep.look_now()
    sweep.start()

    until(lambda: not sweep._thread.is_alive())
