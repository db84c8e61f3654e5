"""Nudges through a real Valkey: what carries no truth may be lost or doubled, but must not pile up."""

from __future__ import annotations

import pytest

from collectkit import collector, cron
from collectkit.broker import LONGEST_QUEUE, NudgeBroker, broker
from collectkit.errors import BrokerUnavailable
from collectkit.nudging import Nudger


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
