"""What a lease and a fence are worth: locks that were waited for, a database from yesterday, a host's wrong clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import time_machine

from collectkit import collector, cron, ledger
from collectkit.collector import Collector
from collectkit.database import clock, ledger_db, writing

TTL = timedelta(seconds=30)
NAME = "tests.fenced"


@pytest.fixture
def fenced(db) -> Collector:
    @collector(periodic=cron("0 * * * *"), name=NAME)
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
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM collectkit.collector FOR UPDATE")
        release = threading.Timer(0.7, other.rollback)
        release.start()
        held = claim()
        release.join()

    assert held is not None
    assert column("lease_until - clock_timestamp()") > TTL - timedelta(seconds=0.4)


def test_what_has_lapsed_cannot_be_claimed_before_it_is_closed(fenced):
    claim()
    ledger_db.run("UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s'")

    assert claim(force=True) is None

    (lapsed,) = ledger.lapsed(timedelta(0))
    assert ledger.close_lost(lapsed, TTL)
    assert claim(force=True) is not None


def test_a_database_from_yesterday_repeats_fences_and_runs_but_no_holder(fenced):
    before = claim()
    ledger_db.run("DELETE FROM collectkit.run")
    ledger_db.run("ALTER TABLE collectkit.run ALTER COLUMN id RESTART")
    ledger_db.run("UPDATE collectkit.collector SET fence = 0, holder = NULL, lease_until = NULL, next_due_at = 'now'")

    after = claim()

    assert (after.run, after.fence) == (before.run, before.fence)
    assert (stores(before), stores(after)) == (False, True)
    assert not ledger.close(before, ledger.closing(before, "OK", at=before.started_at), TTL)
    assert ledger.renew([before, after], TTL) == {before.token}


@pytest.mark.parametrize("wrong", [timedelta(days=-400), timedelta(days=400)])
def test_a_hosts_clock_that_is_wrong_changes_nothing(fenced, wrong):
    now = clock()

    with time_machine.travel(datetime.now(UTC) + wrong):
        outcome = fenced.run_now()

    assert outcome.outcome == "OK"
    assert timedelta(0) < column("next_due_at") - now <= timedelta(hours=1)
    assert now <= column("updated_until_dt") <= clock()
    assert column("stale_at") - now <= timedelta(hours=2)
