"""Lines for people, no wider than a terminal."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

WIDTH = 100


def say(words: str) -> None:
    """Print a line at once, also into a pipe."""
    print(words, flush=True)


def title(words: str) -> None:
    """Begin a part."""
    say("")
    say(words)
    say("")


def say_beside(start: str, words: str) -> None:
    """Print the words behind a start, and as many lines as they need below each other."""
    for number, line in enumerate(wrap(words, WIDTH - len(start), break_on_hyphens=False)):
        say(f"{'' if number else start:<{len(start)}}{line}")


def shown(path: Path) -> str:
    """Name a path as somebody in the current directory would."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
