"""What a killed or stopped process leaves behind ends by itself."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.processes import is_alive


@pytest.fixture
def lane(one_lane):
    """A lane whose workers are ready to work."""
    one_lane.until(lambda: all(wire.ready() for wire in one_lane.wires))
    yield one_lane
    one_lane.tidy()


@pytest.mark.parametrize("point", ["start.setup", "start.worker"])
def test_a_worker_whose_main_process_was_killed_while_it_booted_ends(lane, point, scale):
    if point == "start.worker" and not scale.full:
        pytest.skip("it takes twenty seconds to end: make chaos")
    lane.desk.arm(point)
    lane.start(lane.spare, "worker")
    hit = lane.desk.hit(60)
    assert hit.pid != hit.group

    os.kill(hit.group, signal.SIGKILL)
    lane.spare.process.wait()
    hit.go_on()

    try:
        lane.until(lambda: not is_alive(hit.pid))
    finally:
        if is_alive(hit.pid):
            os.kill(hit.pid, signal.SIGKILL)
