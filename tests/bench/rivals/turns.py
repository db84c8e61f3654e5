"""How a rival talks with the bench: it is told a file, line by line, and answers with what the load of it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path


def take_turns(load: Callable[[str], object]) -> None:
    """Say that all is imported and connected, then load each file that is named.

    An answer is the seconds of the load, and by how many MB this process was ever larger than when it was ready.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    base = _megabytes("VmRSS")
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        with redirect_stdout(sys.stderr):
            load(line.strip())
        print(time.perf_counter() - began, _megabytes("VmHWM") - base, flush=True)


def _megabytes(name: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024
