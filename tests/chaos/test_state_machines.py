"""Any sequence of acts on the ledger leaves what its rules say, and nothing is ever stuck."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from collectkit.database import ledger_db
from tests.chaos.clock import simulated
from tests.chaos.dependency_machine import DependencyMachine
from tests.chaos.ledger_machine import LedgerMachine
from tests.chaos.watermark_machine import WatermarkMachine
from tests.site import Servers


@pytest.fixture(scope="module")
def clock(module_home):
    with Servers(module_home) as servers, simulated(servers, "machine") as made:
        ledger_db.run("CREATE TABLE written (value int)")
        yield made


@pytest.fixture
def thorough(scale):
    return settings(
        deadline=None,
        suppress_health_check=list(HealthCheck),
        max_examples=1000 if scale.full else 40,
        stateful_step_count=80 if scale.full else 40,
        derandomize=not scale.full,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )


def test_any_sequence_of_acts_leaves_the_ledger_as_its_rules_say(clock, thorough):
    LedgerMachine.clock = clock

    run_state_machine_as_test(LedgerMachine, settings=thorough)


def test_any_sequence_of_runs_leaves_rows_and_watermark_as_their_rules_say(clock, thorough):
    WatermarkMachine.clock = clock

    run_state_machine_as_test(
        WatermarkMachine, settings=settings(thorough, max_examples=thorough.max_examples // 2, stateful_step_count=15)
    )


def test_in_any_graph_a_collector_runs_once_all_that_it_needs_is_complete_and_no_later(clock, thorough):
    DependencyMachine.clock = clock

    run_state_machine_as_test(
        DependencyMachine, settings=settings(thorough, max_examples=thorough.max_examples // 2, stateful_step_count=12)
    )
