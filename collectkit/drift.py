"""Where the ledger differs from what the code declares: ``migrate`` mends it, everybody else only says so."""

from __future__ import annotations

import logging
from typing import Any

from collectkit import statements
from collectkit.database import ledger_db
from collectkit.declaration import Declaration
from collectkit.discovery import Discovered
from collectkit.errors import CollectkitError

logger = logging.getLogger(__name__)


def drift(discovered: Discovered) -> list[str]:
    """Return where the ledger differs from the code, one line each; ``migrate`` mends it."""
    stored = read_declared()
    faults = []
    for name, declaration in discovered.declarations.items():
        was = stored.get(name, (None, None, None))[0]
        if was is None:
            faults.append(
                f"collector {name!r}: it has no row in the ledger yet, so it never runs: run `collectkit migrate`"
            )
        elif was != declaration:
            faults.append(f"collector {name!r}: its declaration differs from the ledger: run `collectkit migrate`")
    return faults


def warn_of_drift(discovered: Discovered) -> None:
    """Log where the ledger differs: a process that starts before the migration works by the plans of before."""
    try:
        for fault in drift(discovered):
            logger.warning("%s", fault)
    except CollectkitError as error:
        logger.debug("drift was not looked for: %s", error)


def read_declared() -> dict[str, tuple[Declaration | None, Any, Any]]:
    """Return each row's declaration, None of one that is retired, with its watermark and the database's clock."""
    return {
        name: (
            None
            if retired
            else Declaration(name, schedule, tz, tuple(needs), tuple(after), tuple(models), enabled, tries, fresh_for),
            until,
            now,
        )
        for name, schedule, tz, needs, after, models, enabled, tries, fresh_for, until, now, retired in ledger_db.read(
            statements.DECLARED
        )
    }
