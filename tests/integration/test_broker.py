"""Nudges through a real Valkey: what carries no truth may be lost or doubled, but must not pile up."""

from __future__ import annotations

import pytest

from collectkit import collector, cron, read_status
from collectkit.broker import LONGEST_QUEUE, NudgeBroker, broker
from collectkit.errors import BrokerUnavailable
from collectkit.nudging import Nudger
from collectkit.scheduler import Scheduler


@pytest.fixture
def hourly(db, broker_url):
    @collector(periodic=cron("0 * * * *"), name="tests.hourly")
    def hourly(run):
        pass

    db.enrol(hourly)
    return hourly


def test_what_is_due_gets_one_message(hourly):
    nudger = Nudger([hourly])

    assert nudger.nudge_due() == ["tests.hourly"]
    assert nudger.nudge_due() == []
    assert broker.room("collectors") == LONGEST_QUEUE - 1


def test_many_messages_go_in_one_round_trip_and_can_be_consumed(hourly):
    broker.enqueue_all([hourly.message() for _ in range(200)])

    assert broker.room("collectors") == LONGEST_QUEUE - 200
    consumer = broker.consume("collectors", prefetch=200, timeout=100)
    names = {next(consumer).actor_name for _ in range(200)}
    assert names == {"tests.hourly"}


def test_a_queue_that_nobody_reads_gets_no_more(hourly):
    broker.enqueue_all([hourly.message() for _ in range(LONGEST_QUEUE)])

    assert Nudger([hourly]).nudge_due() == []


def test_a_server_that_is_away_is_said_in_a_line():
    away = NudgeBroker()
    with pytest.raises(BrokerUnavailable, match="no broker yet"):
        away.room("collectors")

    away.connect("unix:///nowhere/valkey.sock")
    with pytest.raises(BrokerUnavailable, match="Redis did not answer"):
        away.room("collectors")


def test_an_author_whose_list_of_instances_fails_keeps_no_run_from_being_nudged(db, broker_url, hourly):
    keys = {"a": None, "b": None}

    def listed():
        if not keys:
            raise OSError("the list cannot be had")
        return keys

    @collector(periodic=cron("0 * * * *"), each=listed, name="tests.parted")
    def parted(run):
        run.store(run.started_at)

    db.enrol(parted)
    keys.clear()

    assert sorted(Nudger([hourly, parted]).nudge_due()) == ["tests.hourly", "tests.parted[a]", "tests.parted[b]"]
    consumer = broker.consume("collectors", prefetch=3, timeout=100)
    for _ in range(3):
        message = next(consumer)
        broker.get_actor(message.actor_name)(*message.args)
    assert {name for name, status in read_status().items() if status.is_complete} == {
        "tests.parted[a]",
        "tests.parted[b]",
    }


def test_a_scheduler_starts_whatever_an_author_says_of_instances(db, broker_url, hourly):
    def failing():
        raise OSError("the list cannot be had")

    parted = collector(periodic=cron("0 * * * *"), each=failing, name="tests.parted")(lambda _run: None)

    Scheduler([hourly, parted]).schedule()

    assert broker.room("collectors") == LONGEST_QUEUE - 1
