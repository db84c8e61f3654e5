"""Named places at which a test makes this process fail; in production reaching one calls an empty function.

``COLLECTKIT_CRASHPOINTS`` names a function, as ``module:function``, that is called at each point instead and may kill
the process, stop it or raise. It is read once, here and not with the settings, for the first point is passed before
these are known. Nothing but a test should set it, so a process that obeys it says so.
"""

from __future__ import annotations

import logging
import os
import pkgutil
from typing import Literal, TypeAlias

Point: TypeAlias = Literal[
    "start.setup",
    "start.worker",
    "claim.before",
    "claim.answered",
    "run.before",
    "fetch.before",
    "fetch.middle",
    "fetch.after",
    "checkpoint.before",
    "checkpoint.begun",
    "load.staged",
    "load.middle",
    "guard.before",
    "guard.after",
    "commit.before",
    "commit.after",
    "run.after",
    "close.before",
    "close.answered",
    "run.closed",
    "renew.before",
    "renew.answered",
    "interrupt.before",
    "sweep.before",
    "lost.before",
    "lost.backend_ended",
    "lost.closed",
    "nudge.before",
    "nudge.marked",
    "nudge.sent",
    "schedule.before",
    "migrate.locked",
    "migrate.schema",
    "migrate.tables",
    "reconcile.before",
    "reconcile.answered",
    "retire.before",
    "shutdown.before",
]
"""The points, in the order of a process's life; ``answered`` is where a statement was carried out and nobody knows."""


def reached(point: Point, subject: str = "") -> None:
    """Nothing has happened: the place was passed.

    Arguments:
        subject: the collector's name, where there is one.
    """


if _named := os.environ.get("COLLECTKIT_CRASHPOINTS"):
    logging.getLogger(__name__).warning("COLLECTKIT_CRASHPOINTS=%s: a test may make this process fail", _named)
    reached = pkgutil.resolve_name(_named)
