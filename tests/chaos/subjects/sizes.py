"""What both the collectors and those who check them go by."""

from datetime import UTC, datetime

from collectkit.groups import Acl

BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
"""The first instant of every source."""

STEP = 9
"""So many records does ``append`` commit at a time."""

MAX_ATTEMPTS = 6
"""Of every collector, and of the soak's."""

SEVENTHS = 7
"""So many groups does ``seventh`` make of them."""

GROUPS = Acl(["readers"], ["keepers"])
"""Of the rows of ``events``."""
