"""Inside the soak's processes: some connections end while a COMMIT is on its way, before or after it has arrived."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import psycopg

HERE = Path(os.environ.get("SOAK_DIR", "."))
CHANCE = float(os.environ.get("SOAK_CUTS", "0"))
SEED = os.environ.get("SOAK_SEED", "")
_UP_TO = 0.001
"""Seconds: about as long as a COMMIT takes here."""

_STATUS = psycopg.pq.TransactionStatus
_WHEN = {
    _STATUS.INTRANS: "cut before COMMIT was sent",
    _STATUS.ACTIVE: "cut at COMMIT",
    _STATUS.IDLE: "cut after COMMIT was answered",
}


class _Lot(threading.local):
    """Which of a run's commits are cut follows from the seed, the collector, and the number of the run."""

    run: str | None = None
    random = Random(0)

    def of(self, run: str) -> Random:
        if self.run != run:
            self.run, self.random = run, Random(f"{SEED}/{run}")
        return self.random


_lot = _Lot()


def reached(point: str, subject: str = "") -> None:
    """At the COMMIT of a checkpoint, now and then: end the connection in a moment."""
    if point != "commit.before" or (HERE / "calm").exists():
        return
    from collectkit.database import database

    connection = database.connection()
    lot = _lot.of(f"{subject}/{connection.info.parameter_status('application_name')}")
    if lot.random() < CHANCE:
        threading.Thread(target=_cut, args=(connection, lot.uniform(0, _UP_TO)), daemon=True).start()


def _cut(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Cut it, and write down how far the COMMIT was: what took no effect leaves no line."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as way:
            time.sleep(seconds)
            when = _WHEN.get(connection.pgconn.transaction_status)
            way.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        return
    if when:
        with (HERE / "cuts").open("a") as file:
            file.write(f"{when}\n")
