"""The scheduler: periodiq's loop with our arithmetic; it sleeps until something is due, nudges it, and heals."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable

import periodiq

from collectkit import ledger
from collectkit.actor import Collector
from collectkit.crashpoints import reached
from collectkit.errors import CollectkitError
from collectkit.nudging import Nudger

_LONGEST_SLEEP = 5.0
_HEAL_EVERY = 60.0

logger = logging.getLogger(__name__)


class Scheduler(periodiq.Scheduler):  # type: ignore[misc]  # periodiq has no types
    """Nudges collectors at their due time. Any number may run: a nudge too many does nothing.

    periodiq's own asks each cron what is due now, and so forgets what was due while it was down. This one asks the
    ledger, which remembers: it sleeps until the earliest due time in the future, five seconds at most.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        collectors = list(collectors)
        super().__init__(actors=collectors)
        self._names = [each.name for each in collectors]
        self._nudger = Nudger(collectors)
        self._stopped = threading.Event()
        self._healed_at: float | None = None
        self._complaint = ""

    def loop(self) -> None:
        """Schedule until a signal says to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopped.set())
        while not self._stopped.is_set():
            try:
                self.schedule()
                sleep = ledger.seconds_to_next_due(self._names)
                self._complaint = ""
            except CollectkitError as error:
                sleep = 1.0
                if str(error) != self._complaint:
                    logger.warning("%s", error)
                self._complaint = str(error)
            # A millisecond later than due, so that the database's clock has surely passed it.
            self._stopped.wait(min(_LONGEST_SLEEP, _LONGEST_SLEEP if sleep is None else sleep + 0.001))

    def schedule(self) -> None:
        """Nudge what is claimable now, and heal if the last time was a minute ago."""
        reached("schedule.before")
        if self._healed_at is None or time.monotonic() - self._healed_at >= _HEAL_EVERY:
            ledger.heal(self._names)
            self._healed_at = time.monotonic()
        for name in self._nudger.nudge_due():
            logger.info("nudged %s", name)
