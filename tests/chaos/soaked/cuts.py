"""Inside the soak's processes: some connections end while a COMMIT is on its way, before or after it has arrived."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(os.environ.get("SOAK_DIR", "."))
CHANCE = float(os.environ.get("SOAK_CUTS", "0"))
_UP_TO = 0.002
"""Seconds: a COMMIT takes about half of it here."""


def reached(point: str, subject: str = "") -> None:
    """At the COMMIT of a checkpoint, now and then: end the connection in a moment."""
    if point == "commit.before" and random.random() < CHANCE and not (HERE / "calm").exists():
        from collectkit.database import database

        with (HERE / "cuts").open("a") as file:
            file.write(f"{subject}\n")
        connection = socket.socket(fileno=os.dup(database.connection().fileno()))
        threading.Thread(target=_cut, args=(connection, random.uniform(0, _UP_TO)), daemon=True).start()


def _cut(connection: socket.socket, seconds: float) -> None:
    time.sleep(seconds)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
