"""Children of a process that is killed: none may outlive it, at whatever moment the kill comes."""

from __future__ import annotations

import subprocess
import sys

ORPHAN = """
import os, signal, time
from collectkit.children import spawn

def lose_parent():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.2)

spawn(["sleep", "600"], become=lose_parent)
"""


def test_a_child_whose_parent_is_killed_between_fork_and_start_ends_too():
    # The child holds the pipe of its parent, so that the end of the pipe is the end of both.
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, timeout=60, check=False)

    assert done.returncode == -9
