"""The statements of the ledger on real connections: each rule that makes a promise."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest

from collectkit import collector, cron, ledger
from collectkit.closing import close_lost, closing
from collectkit.database import clock, ledger_db

TTL = timedelta(seconds=30)
# No tick of it comes while a test goes on.
YEARLY = cron("0 0 1 1 *")


@pytest.fixture
def name(db):
    @collector(periodic=YEARLY, name="tests.one")
    def one(run):
        pass

    db.enrol(one)
    return one.name


@pytest.fixture
def others(db, name):
    """One that has no tick for long, and one that was retired; both are due in a hundred years."""
    for other in ("tests.other", "tests.retired"):
        db.enrol(collector(periodic=YEARLY, name=other)(lambda _run: None))
    ledger_db.run(
        "UPDATE collectkit.collector SET next_due_at = '2126-01-01Z',"
        " retired_at = CASE WHEN name = 'tests.retired' THEN clock_timestamp() END WHERE name <> %(name)s",
        {"name": name},
    )
    return lambda: {column(other, "next_due_at").year for other in ("tests.other", "tests.retired")} == {2126}


def claim(name, **options):
    return ledger.claim(name, ttl=TTL, worker="here", **options)


def column(name, what):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector WHERE name = %(name)s", {"name": name})[0][0]


def close(held, outcome, **options):
    return ledger.close(held, closing(held, outcome, at=held.started_at, **options), TTL)


def test_a_collector_seen_for_the_first_time_is_due_at_once(name):
    assert claim(name) is not None


def test_of_many_claims_at_once_one_wins(name):
    won = []

    def try_it():
        won.append(claim(name))
        ledger_db.let_go()

    threads = [threading.Thread(target=try_it) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len([each for each in won if each is not None]) == 1


def test_a_claim_takes_the_due_time_into_the_run(name):
    held = claim(name)

    assert held.scheduled_for is not None
    assert column(name, "next_due_at") is None


def test_success_gives_back_the_first_tick_after_the_claim(name):
    held = claim(name)

    assert close(held, "OK")

    assert column(name, "next_due_at") == YEARLY.next_tick(held.started_at)
    assert column(name, "attempt") == 0


def test_a_failure_is_retried_after_the_backoff_until_attempts_are_spent(name):
    for attempt in (1, 2, 3):
        held = claim(name, force=True)
        assert held.attempt == attempt
        close(held, "FAILED", backoff=timedelta(seconds=1), error="no")
        if attempt < 3:
            assert column(name, "next_due_at - clock_timestamp()") <= timedelta(seconds=1)

    assert column(name, "attempt") == 0
    assert column(name, "next_due_at") == YEARLY.next_tick(held.started_at)
    assert column(name, "last_error") == "no"


def test_a_run_that_was_handed_over_gives_its_due_time_back_and_counts_no_attempt(name):
    held = claim(name)

    close(held, "HANDED_OVER")

    assert column(name, "next_due_at") == held.scheduled_for
    assert column(name, "attempt") == 0


def test_a_dry_run_by_hand_gives_the_tick_back_a_scheduled_one_goes_on(name):
    by_hand = claim(name, force=True, trigger="inline", dry_run=True)
    close(by_hand, "OK")
    assert column(name, "next_due_at") == by_hand.scheduled_for

    scheduled = claim(name, dry_run=True)
    close(scheduled, "FAILED", error="no")
    assert column(name, "next_due_at") == YEARLY.next_tick(scheduled.started_at)
    assert column(name, "last_error") is None


def test_a_request_during_a_run_makes_one_more_run_follow(name):
    held = claim(name)
    assert ledger.request(name, by="me", note="now")
    assert ledger.request(name, by="me", note="now!")

    close(held, "OK")

    again = claim(name)
    assert again is not None
    close(again, "OK")
    assert claim(name) is None


def test_only_the_holder_can_renew_and_close(name):
    held = claim(name)
    other = ledger.Claim(**{field: getattr(held, field) for field in held.__slots__} | {"token": uuid.uuid4()})

    assert ledger.renew([held, other], TTL) == {other.token}
    assert not close(other, "OK")
    assert close(held, "OK")
    assert ledger.renew([held], TTL) == {held.token}


def test_a_lapsed_lease_is_closed_as_lost_and_its_due_time_comes_back(name):
    held = claim(name)
    ledger_db.run("UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s'")

    # A server younger than a lease gives everybody that time to renew; no test server is a year old.
    assert ledger.lapsed(timedelta(days=365)) == []
    (lost,) = ledger.lapsed(timedelta(milliseconds=1))
    assert close_lost(lost, TTL)

    assert column(name, "next_due_at") == held.scheduled_for
    assert not close(held, "OK")
    assert "stopped renewing" in column(name, "last_error")


def test_a_lease_that_was_renewed_meanwhile_is_not_closed_as_lost(name):
    held = claim(name)
    ledger_db.run("UPDATE collectkit.collector SET lease_until = clock_timestamp() - interval '1 s'")
    (lost,) = ledger.lapsed(timedelta(milliseconds=1))

    ledger.renew([held], TTL)

    assert not close_lost(lost, TTL)
    assert close(held, "OK")


@pytest.mark.parametrize(
    "hindrance", ["enabled = false", "paused_at = now()", "retired_at = now()", "depends_on = '{x}'"]
)
def test_what_is_disabled_paused_retired_or_blocked_cannot_be_claimed_even_by_force(name, hindrance):
    ledger_db.run(f"UPDATE collectkit.collector SET {hindrance}")

    assert claim(name, force=True) is None


def test_a_due_collector_is_nudged_once_in_ten_seconds_whoever_looks(name):
    assert ledger.due([name], 10) == [name]
    assert ledger.due([name], 10) == []

    ledger_db.run("UPDATE collectkit.collector SET nudged_at = clock_timestamp() - interval '11 s'")
    assert ledger.due([name], 10) == [name]


def test_no_more_is_nudged_than_the_queue_has_room_for(name):
    assert ledger.due([name], 0) == []


def test_healing_pulls_a_due_time_back_to_the_next_tick_and_never_moves_it_away(name):
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '3 years'")

    ledger.heal([name])
    tick = YEARLY.next_tick(clock())
    assert column(name, "next_due_at") == tick

    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '1 s'")
    before = column(name, "next_due_at")
    ledger.heal([name])
    assert column(name, "next_due_at") == before


def test_healing_leaves_those_of_others_and_the_retired_alone(name, others):
    ledger.heal([name, "tests.retired"])

    assert others()


def test_a_request_is_for_one_collector_and_never_for_a_retired_one(name, others):
    assert ledger.request(name, by="me", note=None)
    assert not ledger.request("tests.retired", by="me", note=None)

    assert others()
    assert ledger_db.run("SELECT collector FROM collectkit.audit") == [(name,)]


def test_healing_goes_by_the_plan_that_is_in_force_not_by_the_code_of_the_one_who_heals(name):
    in_half_a_day = f"0 {(clock().hour + 12) % 24} * * *"
    ledger_db.run(
        "UPDATE collectkit.collector SET schedule = %(plan)s, next_due_at = clock_timestamp() + interval '5 h'",
        {"plan": in_half_a_day},
    )
    before = column(name, "next_due_at")

    ledger.heal([name])

    assert column(name, "next_due_at") == before


def test_a_collector_that_only_follows_waits_for_ever_but_retries_when_spent(db):
    @collector(after=["tests.one"], name="tests.follower")
    def follower(run):
        pass

    db.enrol(follower)
    held = claim(follower.name)
    close(held, "OK")
    assert column(follower.name, "next_due_at = 'infinity'")

    for _ in range(3):
        held = claim(follower.name, force=True)
        close(held, "FAILED", backoff=timedelta(seconds=1), longest_backoff=timedelta(minutes=7), error="no")
    assert column(follower.name, "next_due_at") == held.started_at + timedelta(minutes=7)


def test_the_database_itself_refuses_a_free_row_without_a_due_time(name):
    with pytest.raises(Exception, match="a_free_row_knows_when"):
        ledger_db.run("UPDATE collectkit.collector SET next_due_at = NULL")
