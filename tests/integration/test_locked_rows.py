"""A row that somebody has locked, a stopped process perhaps, holds no other collector up."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from collectkit import collector, cron, ledger
from collectkit.database import ledger_db

TTL = timedelta(seconds=30)
LOCKED, FREE = "tests.locked", "tests.free"


@pytest.fixture
def lock(db, postgres_url):
    """Two collectors, and a function that locks the row of one for as long as the test lasts."""
    db.enrol(*(collector(periodic=cron("0 * * * *"), name=name)(lambda _run: None) for name in (LOCKED, FREE)))
    with psycopg.connect(postgres_url) as other:
        yield lambda: other.execute("SELECT 1 FROM collectkit.collector WHERE name = %s FOR UPDATE", (LOCKED,))
        other.rollback()


def test_the_leases_of_the_others_are_renewed_and_that_run_does_not_count_as_lost(lock):
    claims = [ledger.claim(name, ttl=TTL, worker="here") for name in (LOCKED, FREE)]
    lock()

    assert ledger.renew(claims, 2 * TTL) == set()

    longer = ledger_db.run(
        "SELECT name FROM collectkit.collector WHERE lease_until > clock_timestamp() + interval '31 s'"
    )
    assert longer == [(FREE,)]


def test_the_others_are_nudged(lock):
    lock()

    assert ledger.due([LOCKED, FREE], 10) == [FREE]
