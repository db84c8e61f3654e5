"""Who collects what in the soak: fifty collectors, and how each of them behaves."""

from __future__ import annotations

from datetime import timedelta

from collectkit.groups import Acl

APPENDS = 14
WINDOWS = 12
SNAPSHOTS = 12
CHAINS = 6
"""Chains hang on the first snapshots: a tally follows each, and a grand total follows that."""

PARTS = 97

BACKOFF = (timedelta(seconds=0.5), timedelta(seconds=4))

GROUPS = Acl(["readers"], ["keepers"])
"""Of the rows of each second snapshot."""

PROTECTED = range(0, SNAPSHOTS, 2)

KINDS = {"append": APPENDS, "window": WINDOWS, "snapshot": SNAPSHOTS}
SOURCES = [f"{kind}_{number}" for kind, count in KINDS.items() for number in range(count)]
DERIVED = [f"{kind}_{number}" for kind in ("tally", "grand") for number in range(CHAINS)]

SLOW = {"append_0", "window_0", "snapshot_6"}
FLAKY = {"append_1", "window_1", "snapshot_7", "tally_0"}
DEADLY = {"append_2"}
