"""What the system says of a process."""

from __future__ import annotations

import signal
from pathlib import Path


def state(pid: int) -> str:
    """Return its state in a letter, ``T`` if it is stopped; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Tell whether it is there and has not ended: one that nobody has waited for yet has."""
    return state(pid) not in {"Z", "X", ""}


def members(pid: int) -> list[int]:
    """Return a process and its children, the living alone."""
    try:
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return []
    return [pid, *(child for child in children if is_alive(child))]


def catches_sigterm(pid: int) -> bool:
    """Tell whether it has said what it does on SIGTERM, as workers and schedulers do when they have booted."""
    caught = int(Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)
