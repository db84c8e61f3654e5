"""What commands print: sentences and tables for people, one JSON document for scripts."""

from __future__ import annotations

import sys
from typing import Any

import msgspec


def say(document: Any, as_json: bool, words: str | None) -> None:
    """Print the words, or with ``--json`` the document on one line and nothing else."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    elif words is not None:
        print(words)


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Print rows under titles."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*row)
    # A pipe has no width of its own; eighty columns would cut names in two.
    Console(width=None if sys.stdout.isatty() else 240).print(drawn)
