"""What a close gives back and says where somebody else did it, or there is no tick to wait for; and when to wake up."""

from __future__ import annotations

import re
from datetime import timedelta

import msgspec
import pytest

from collectkit import collector, cron, ledger
from collectkit.closing import LONGEST_BACKOFF, close_lost, close_revoked
from collectkit.database import connect, ledger_db

TTL = timedelta(seconds=30)
SHORT = timedelta(milliseconds=1)
HOURLY = cron("0 * * * *")
NAME, FOLLOWER = "tests.closed", "tests.follower"


@pytest.fixture
def enrolled(db):
    """Enrol a function as an hourly collector, and beside it one that only follows it."""

    def enrol(fn=lambda _run: None):
        declared = collector(periodic=HOURLY, name=NAME)(fn)
        db.enrol(declared, collector(after=[NAME], name=FOLLOWER, max_attempts=2)(lambda _run: None))
        return declared

    return enrol


def claim(name, **options):
    return ledger.claim(name, ttl=TTL, worker="here", **options)


def column(what, name=NAME):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector WHERE name = '{name}'")[0][0]


def lapse(name):
    ledger_db.run(
        f"UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s' WHERE name='{name}'"
    )
    (lost,) = ledger.lapsed(SHORT, name)
    return lost


def test_a_run_that_was_closed_as_lost_before_it_ended_says_so_and_when(enrolled):
    def robbed(_run):
        # Its first renewal may come in between.
        while not close_lost(lapse(NAME), TTL):
            pass

    outcome = enrolled(robbed).run_now()

    assert outcome.outcome == "LOST"
    assert re.fullmatch(r"lost its lease \(run \d+, fence 1, closed as LOST at \d\d:\d\d:\d\dZ\)", outcome.reason)
    assert ledger_db.run("SELECT outcome FROM collectkit.run") == [("LOST",)]


def test_a_lost_run_of_a_collector_without_a_schedule_waits_the_longest_backoff_once_attempts_are_spent(enrolled):
    enrolled()
    for attempt in (1, 2):
        assert claim(FOLLOWER).attempt == attempt
        lost = lapse(FOLLOWER)
        assert close_lost(lost, TTL)

    assert column("next_due_at", FOLLOWER) == lost.at + LONGEST_BACKOFF
    assert column("attempt", FOLLOWER) == 0


def test_a_lease_from_a_clock_that_ran_ahead_is_closed_as_lost_and_a_whole_one_is_not(enrolled):
    enrolled()
    held = claim(NAME)
    (lost,) = [each for each in ledger.lapsed(SHORT, NAME) if each.run == held.run]

    assert not close_lost(lost, TTL)

    ledger_db.run(
        "UPDATE collectkit.collector SET lease_until = clock_timestamp() + interval '1 h' WHERE holder = %(t)s",
        {"t": held.token},
    )
    assert close_lost(lost, TTL)


def test_a_lost_run_says_who_stopped_and_at_which_attempt(enrolled):
    enrolled()
    held = claim(NAME)

    close_lost(lapse(NAME), TTL)

    assert column("last_error") == f"lost: here stopped renewing run {held.run} (attempt 1 of 3)"


def test_a_revoked_run_gives_its_due_time_back_and_counts_no_attempt(enrolled):
    enrolled()
    held = claim(NAME)

    close_revoked(NAME, "revoked: for a test", TTL)

    assert (column("next_due_at"), column("attempt"), column("last_error")) == (held.scheduled_for, 0, None)
    assert ledger_db.run("SELECT outcome, error FROM collectkit.run") == [("REVOKED", "revoked: for a test")]


def test_a_run_by_hand_first_closes_what_has_lapsed(enrolled, db):
    declared = enrolled()
    connect(msgspec.structs.replace(db.settings, lease_ttl=timedelta(seconds=0.2)))
    claim(NAME)
    lapse(NAME)

    outcome = declared.run_now()

    assert outcome.outcome == "OK"
    assert ledger_db.run("SELECT outcome, attempt FROM collectkit.run ORDER BY id") == [("LOST", 1), ("OK", 2)]


def test_the_next_moment_to_wake_up_at_is_the_first_due_time_to_come_of_ones_own_free_collectors(enrolled):
    enrolled()
    mine = [NAME, FOLLOWER]
    assert ledger.seconds_to_next_due(mine) is None  # both are due now

    ledger_db.run(f"UPDATE collectkit.collector SET next_due_at = 'infinity' WHERE name = '{FOLLOWER}'")
    ledger_db.run(
        f"UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '1 h' WHERE name = '{NAME}'"
    )
    assert 3590 < ledger.seconds_to_next_due(mine) <= 3600
    assert ledger.seconds_to_next_due([FOLLOWER]) is None

    claim(NAME, force=True)
    ledger.request(NAME, by="me", note=None)
    ledger_db.run(
        f"UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '1 h' WHERE name = '{NAME}'"
    )
    assert ledger.seconds_to_next_due(mine) is None
