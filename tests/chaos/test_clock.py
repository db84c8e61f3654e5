"""The database's clock set back and forth: what was due stays due, what is dead is found, and nothing waits for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import falcon.testing
import msgspec
import pytest

from collectkit import collector, cron, ledger
from collectkit.broker import broker
from collectkit.closing import close_lost, closing
from collectkit.database import ledger_db, settings_in_force
from collectkit.discovery import describe
from collectkit.migrate import migrate
from service import create_app
from tests.chaos.clock import simulated
from tests.site import Servers

NAME = "clock.hourly"
TTL = timedelta(seconds=30)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def module_clock(module_home):
    with Servers(module_home) as servers, simulated(servers, "clock") as made:
        yield made


@pytest.fixture
def clock(module_clock):
    ledger_db.run("TRUNCATE collectkit.run, collectkit.collector")
    module_clock.run()
    broker.actors.pop(NAME, None)
    migrate(describe([collector(periodic=cron("0 * * * *"), name=NAME)(lambda _run: None)]))
    yield module_clock
    broker.actors.pop(NAME, None)


def test_a_dead_holder_is_found_also_when_the_clock_is_set_back_behind_the_start_of_the_database(clock):
    claim = ledger.claim(NAME, ttl=TTL, worker="dead")

    clock.run(ahead=-HOUR)

    (lost,) = ledger.lapsed(TTL)
    assert lost.run == claim.run
    assert close_lost(lost, TTL)


def test_a_nudge_that_was_lost_before_the_clock_was_set_back_is_sent_again(clock):
    assert ledger.due([NAME], 10) == [NAME]
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() - interval '2 h'")

    clock.run(ahead=-HOUR)

    assert ledger.due([NAME], 10) == [NAME]


@pytest.mark.parametrize("ahead", [HOUR, timedelta(days=400)])
def test_a_living_holder_keeps_its_lease_by_renewing_when_the_clock_is_set_forth_and_back(clock, ahead):
    claim = ledger.claim(NAME, ttl=TTL, worker="alive")

    for set_to in (ahead, timedelta(0), -ahead):
        clock.run(ahead=set_to)
        # A sweep renews its own before it looks for the lapsed.
        assert ledger.renew([claim], TTL) == set()
        assert ledger.lapsed(TTL) == []

    assert ledger.close(claim, closing(claim, "OK", at=claim.started_at), TTL)


def test_a_clock_that_ran_ahead_costs_no_tick_once_it_is_set_right(clock):
    clock.stand(datetime(2031, 5, 5, 12, 30, tzinfo=UTC))
    claim = ledger.claim(NAME, ttl=TTL, worker="ahead")
    ledger.close(claim, closing(claim, "OK", at=claim.started_at), TTL)

    clock.stand(datetime(2031, 5, 4, 8, 15, tzinfo=UTC))
    ledger.heal([NAME])
    clock.stand(datetime(2031, 5, 4, 9, 0, tzinfo=UTC))

    assert ledger.due([NAME], 10) == [NAME]


def test_ready_names_who_waits_also_when_the_clock_is_set_back_behind_the_start_of_the_database(clock):
    settings = msgspec.structs.replace(settings_in_force(), broker_url="redis://127.0.0.1:9/0", ready_after=HOUR)
    client = falcon.testing.TestClient(create_app(settings))

    def waiting():
        ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() - interval '1 day'")
        failing = client.simulate_get("/collectors/ready").json["failing"]
        return [name for each in failing for name in each.get("collectors", [])]

    while_the_database_is_young = waiting()
    clock.run(ahead=-2 * HOUR)

    assert (while_the_database_is_young, waiting()) == ([], [NAME])
