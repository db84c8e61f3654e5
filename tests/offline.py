"""The shipped collectors switched off, for processes of a test that would otherwise ask their real sources."""

from __future__ import annotations

from pathlib import Path

_SHIPPED = {path.parent.name for path in (Path(__file__).parents[1] / "collectors").glob("*/tasks.py")}

OFFLINE = {f"{name.upper()}_COLLECTOR_ENABLED": "false" for name in _SHIPPED - {"example"}}
"""What to add to the environment of a process; the example, which asks nobody, stays on."""
