"""The command ``collectkit``: each command reads the settings, composes what it needs, and says how it went."""

from __future__ import annotations

import sys
from pathlib import Path

from collectkit.cli.commands import app
from collectkit.errors import CollectkitError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; a fault of the user's is said in a line, with exit code 1."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except CollectkitError as error:
        sys.exit(f"collectkit: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
