"""Another schedule is deployed: who waits follows it, who is tried again or runs is never delayed by it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from collectkit import collector, cron, ledger
from collectkit.broker import broker
from collectkit.closing import closing
from collectkit.database import clock, ledger_db

TTL = timedelta(seconds=30)
NAME = "tests.planned"
HOURLY, YEARLY = cron("0 * * * *"), cron("0 0 1 1 *")
# For those whose due time is near: no tick of it may come between.
IN_JUNE = cron("0 0 1 6 *")


@pytest.fixture
def deploy(db):
    """Migrate to a declaration with this schedule."""

    def migrate(schedule):
        broker.actors.pop(NAME, None)
        db.enrol(collector(periodic=schedule, name=NAME)(lambda _run: None))

    return migrate


def due():
    return ledger_db.run("SELECT next_due_at FROM collectkit.collector")[0][0]


def claim():
    return ledger.claim(NAME, ttl=TTL, worker="here", force=True)


def close(held, outcome, **options):
    ledger.close(held, closing(held, outcome, at=held.started_at, **options), TTL)


def test_one_that_waits_follows_the_new_plan_later_or_earlier(deploy):
    deploy(HOURLY)
    close(claim(), "OK")

    deploy(YEARLY)
    later = due()
    before = clock()
    deploy(HOURLY)

    assert later == YEARLY.next_tick(before)
    assert HOURLY.next_tick(before) <= due() <= HOURLY.next_tick(clock())


def test_one_that_is_tried_again_is_not_put_off(deploy):
    deploy(IN_JUNE)
    close(claim(), "FAILED", backoff=timedelta(minutes=1))
    before = due()

    deploy(YEARLY)

    assert clock() < due() == before


def test_one_that_runs_and_is_asked_for_again_runs_once_more(deploy):
    deploy(IN_JUNE)
    held = claim()
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '1 min'")
    before = due()

    deploy(YEARLY)
    close(held, "OK")

    assert due() == before
