"""What commands print: sentences and tables for people, one JSON document for scripts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

_GAP: Final = "  "
# A longer cell may take several lines on a terminal; times and names do not.
_LONGEST_LINE: Final = 30


def say(document: Any, as_json: bool, words: str | None) -> None:
    """Print the words, or with ``--json`` the document on one line and nothing else."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    elif words is not None:
        print(words)


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Print rows under titles, and cut no cell: into a pipe a row is one line, on a narrow terminal it is a block."""
    from rich.console import Console

    # Names of instances, and what a source said, may look like markup: osv[crates.io].
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False)
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    if sys.stdout.isatty():
        widths = [widths[0], *(min(width, _LONGEST_LINE) for width in widths[1:])]
    if sum(widths) + len(_GAP) * (len(widths) - 1) <= console.width:
        console.print(_side_by_side(titles, rows, widths))
        return
    for name, *cells in rows:
        console.print(name, style="bold", overflow="fold")
        console.print(_one_below_the_other(titles[1:], cells))


def _side_by_side(titles: list[str], rows: list[list[str]], widths: list[int]) -> Table:
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(_GAP), 0, 0))
    for title, width in zip(titles, widths, strict=True):
        drawn.add_column(title, min_width=width, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _one_below_the_other(titles: list[str], cells: list[str]) -> Table:
    from rich.table import Table

    drawn = Table.grid(padding=(0, len(_GAP), 0, 0))
    drawn.add_column(min_width=max(map(len, titles)))
    drawn.add_column(overflow="fold")
    for title, cell in zip(titles, cells, strict=True):
        if cell != "-":
            drawn.add_row(f"  {title}", cell)
    return drawn
