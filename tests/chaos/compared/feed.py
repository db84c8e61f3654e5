"""What both sides of the comparison collect, page by page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.soaked.source import Source, Version

HERE = Path(os.environ.get("SOAK_DIR", "."))
COLLECTORS = 10
STEPS = 200
PER_STEP = 50
PAGE = 25
FETCHING = 0.05
"""Seconds that the source takes for a page."""

LOCK_TTL = 3
"""Seconds; the lease of ours is as long."""


def pages(number: int, seq: int) -> Iterator[list[Version]]:
    """Yield what is published by now behind the first ``seq`` records."""
    step = int((HERE / "step").read_text())
    while found := Source(HERE / f"feed_{number}", PER_STEP).after(seq, step, PAGE):
        time.sleep(FETCHING)
        yield found
        seq += len(found)
