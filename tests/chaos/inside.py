"""Inside a process under test: whoever reaches an armed crash point tells the test, and waits for its word.

Meanwhile the test may kill or stop the process, or cut its connections. A point is armed by a file of its name; the
one who takes the file away suffers the fault, so that it strikes once however many processes come by.

While there is a file ``withheld``, no run of these processes is interrupted: who has lost its lease finds out by what
the ledger answers, when it tries to commit or to close.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("CHAOS_DIR", "."))
ARMED = HERE / "armed"
DESK = HERE / "desk.sock"
WITHHELD = HERE / "withheld"


class CrashPoint(Exception):
    """The fault "an exception"."""


def reached(point: str, subject: str = "") -> None:
    """Go on, unless the point is armed."""
    name = f"{point}@{subject}" if subject else point
    try:
        (ARMED / name).unlink()
    except FileNotFoundError:
        if point == "interrupt.before" and WITHHELD.exists():
            _withhold(subject)
        return
    with socket.socket(socket.AF_UNIX) as desk:
        desk.connect(str(DESK))
        desk.sendall(json.dumps({"point": name, "pid": os.getpid(), "ports": _ports()}).encode() + b"\n")
        word = desk.recv(16)
    if word == b"raise":
        raise CrashPoint(f"crash point {name}")


def _withhold(collector: str) -> None:
    """Fail in the place of whoever interrupts; it says so in a line and tries again in half a second."""
    from collectkit.errors import CollectkitError

    raise CollectkitError(f"the interrupt of {collector} is withheld by a test")


def _ports() -> list[int]:
    """Return the local ports of the connections to PostgreSQL that this thread has."""
    from collectkit.database import database, ledger_db

    connections = [db._state.conn for db in (database, ledger_db)]
    return [port for each in connections if each is not None and (port := _port(each))]


def _port(connection: Any) -> int | None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            name = end.getsockname()
    except Exception:  # noqa: BLE001 - a connection that is closed or broken has none
        return None
    return int(name[1]) if isinstance(name, tuple) else None
