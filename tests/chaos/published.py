"""Files by which a test tells processes something while they run."""

from __future__ import annotations

from pathlib import Path


def publish(file: Path, words: str) -> None:
    """Write the file; whoever reads it meanwhile sees all of the old words or all of the new."""
    unfinished = file.with_suffix(".new")
    unfinished.write_text(words)
    unfinished.replace(file)
