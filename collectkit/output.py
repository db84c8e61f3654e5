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
    """Print rows under titles; the first column, the names, is never cut, and into a pipe a row is one line."""
    from rich.console import Console
    from rich.table import Table

    is_seen = sys.stdout.isatty()
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        widest = max((len(row[number]) for row in rows), default=0)
        drawn.add_column(title, no_wrap=not number, min_width=None if is_seen and number else widest)
    for row in rows:
        drawn.add_row(*row)
    # Names of instances, and what a source said, may look like markup: osv[crates.io].
    Console(width=None if is_seen else 10_000, markup=False, emoji=False).print(drawn)
