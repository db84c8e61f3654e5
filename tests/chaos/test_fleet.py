"""A fault counts if it took effect, and only then."""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.fleet import Fleet
from tests.site import Site


@pytest.fixture
def site(home):
    """Nothing of it is started, so neither server answers."""
    return Site(home, {}, environ={"COLLECTKIT_BROKER_URL": "redis://127.0.0.1:1"})


@pytest.fixture
def fleet(site):
    """Two commands that live until they are killed; the second is the one that holds leases."""
    made = Fleet(site, Random(1), [("0",)] * 2, lambda: {made._running[1].pid}, module="http.server")
    yield made
    made.end()


@pytest.mark.parametrize("fault", ["kill", "stop", "term", "flush"])
def test_nothing_is_counted_where_there_is_nobody_to_strike(site, fault):
    fleet = Fleet(site, Random(1), [])

    assert not fleet.strike(fault)
    assert fleet.done[fault] == 0


def test_a_broker_that_is_away_cannot_go_away(site):
    fleet = Fleet(site, Random(1), [])

    assert fleet.strike("outage")
    assert not fleet.strike("outage")
    assert fleet.done["outage"] == 1


@pytest.mark.parametrize("fault", ["stop", "term"])
def test_each_command_is_stopped_once_and_told_once(site, fleet, fault):
    fleet._eager = 0

    site.until(lambda: not fleet.strike(fault), 20)

    assert fleet.done[fault] == 2


def test_a_holder_is_preferred_and_counted(site, fleet):
    fleet._eager = 1

    assert fleet.strike("kill")
    fleet._running[1].wait(60)
    assert fleet._running[0].poll() is None
    assert fleet.done["kill of a holder"] == 1

    assert not fleet.strike("kill")
    assert fleet.done["kill"] == 1
