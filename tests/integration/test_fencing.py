"""What a lease and a fence are worth: locks that were waited for, a database from yesterday, a host's wrong clock."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import time_machine

from collectkit import collector, cron, ledger
from collectkit.actor import Collector
from collectkit.closing import close_lost, closing
from collectkit.database import clock, ledger_db, writing

TTL = timedelta(seconds=30)
HOURLY = cron("0 * * * *")
NAME = "tests.fenced"


@pytest.fixture
def fenced(db) -> Collector:
    @collector(periodic=HOURLY, name=NAME)
    def fenced(run):
        run.store(run.started_at)

    db.enrol(fenced)
    return fenced


def claim(**options):
    return ledger.claim(NAME, ttl=TTL, worker="here", **options)


def stores(held):
    """Store what a checkpoint of this claim stores; tell whether it was taken."""
    with writing(held.application_name, 30_000):
        plan = ledger.checkpoint(held, until=None, stale_at=None, complete=False, meta={}, removed=[], counts={})
    return plan is not None


def column(what):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector")[0][0]


def test_a_claim_that_waited_for_a_lock_has_its_whole_lease(fenced, postgres_url):
    released = []

    def release():
        # Not before the claim waits, and then at once, for it gives up after a second.
        while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)
        released.extend(other.execute("SELECT clock_timestamp()").fetchone())
        other.rollback()

    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM collectkit.collector FOR UPDATE")
        releasing = threading.Thread(target=release)
        releasing.start()
        held = claim()
        releasing.join()

    assert held is not None
    assert column("lease_until") >= released[0] + TTL


def test_what_has_lapsed_cannot_be_claimed_before_it_is_closed(fenced):
    claim()
    ledger_db.run("UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s'")

    assert claim(force=True) is None

    (lapsed,) = ledger.lapsed(timedelta(0))
    assert close_lost(lapsed, TTL)
    assert claim(force=True) is not None


def test_a_database_from_yesterday_repeats_fences_and_runs_but_no_holder(fenced):
    before = claim()
    ledger_db.run("DELETE FROM collectkit.run")
    ledger_db.run("ALTER TABLE collectkit.run ALTER COLUMN id RESTART")
    ledger_db.run("UPDATE collectkit.collector SET fence = 0, holder = NULL, lease_until = NULL, next_due_at = 'now'")

    after = claim()

    assert (after.run, after.fence) == (before.run, before.fence)
    assert (stores(before), stores(after)) == (False, True)
    assert not ledger.close(before, closing(before, "OK", at=before.started_at), TTL)
    assert ledger.renew([before, after], TTL) == {before.token}


def stale(until):
    """From when on data that are complete until then are stale."""
    return HOURLY.next_tick(HOURLY.next_tick(until + timedelta(minutes=1)))


@pytest.mark.parametrize("wrong", [timedelta(days=-400), timedelta(days=400)])
def test_a_hosts_clock_that_is_wrong_changes_nothing(fenced, wrong):
    before = clock()

    with time_machine.travel(datetime.now(UTC) + wrong):
        outcome = fenced.run_now()

    after = clock()  # an hour may have begun meanwhile
    assert outcome.outcome == "OK"
    assert HOURLY.next_tick(before) <= column("next_due_at") <= HOURLY.next_tick(after)
    assert before <= column("updated_until_dt") <= after
    assert stale(before) <= column("stale_at") <= stale(after)
