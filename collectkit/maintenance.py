"""Two threads that keep runs alive and bring back the dead: renewing leases, and sweeping.

They are apart, each with a connection of its own, because renewing must never wait: not for Redis, and not for a row
that a stopped process has locked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from dramatiq.middleware import Interrupt

from collectkit import ledger
from collectkit.closing import close_lost
from collectkit.crashpoints import reached
from collectkit.database import ledger_db
from collectkit.errors import CollectkitError, DeadlineExceeded, LeaseLost
from collectkit.interrupts import call_back, interrupt
from collectkit.ledger import Claim

SWEEP_INTERVAL = timedelta(seconds=5)
# Seconds between two sweeps: what many short runs leave due is looked for together, not once for each.
_REST = 0.1

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Held:
    claim: Claim
    ttl: timedelta
    thread: threading.Thread
    deadline: float
    interrupted: bool = False


class Leases:
    """The runs of this process, and the thread that renews them all in one statement, three times in a TTL.

    Renewal stops at a run's deadline, so that a hung run is fenced like a dead one. A run that lost its lease or passed
    its deadline is interrupted with an exception that is no ``Exception``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, _Held] = {}
        self._wake = threading.Event()
        self._renewer: threading.Thread | None = None
        self._renewed_at = time.monotonic()

    def hold(self, claim: Claim, ttl: timedelta, deadline: timedelta) -> None:
        """Renew this run's lease from now on, and interrupt the calling thread when it must end."""
        held = _Held(claim, ttl, threading.current_thread(), time.monotonic() + deadline.total_seconds())
        with self._lock:
            self._held[claim.token] = held
            if self._renewer is None or not self._renewer.is_alive():
                self._renewed_at = time.monotonic()
                self._renewer = threading.Thread(target=self._renew_for_ever, name="collectkit-renew", daemon=True)
                self._renewer.start()
        self._wake.set()

    def let_go(self, claim: Claim) -> None:
        """Renew it no more; an interrupt that is on its way to the calling thread is called back.

        It may strike in here, so the method starts over until it has been carried out; or on the way here, and then
        whoever calls this calls it again.
        """
        held: _Held | None = None
        while True:
            try:
                with self._lock:
                    held = self._held.pop(claim.token, held)
                if held is not None and held.interrupted:
                    call_back()
            except Interrupt:
                continue
            return

    def renew_now(self) -> None:
        """Renew every lease of this process now; the sweep calls it first, so that it never closes a living run."""
        with self._lock:
            self._held = {token: held for token, held in self._held.items() if held.thread.is_alive()}
            alive = [held for held in self._held.values() if time.monotonic() < held.deadline]
        for ttl in {held.ttl for held in alive}:
            lost = ledger.renew([held.claim for held in alive if held.ttl == ttl], ttl)
            for token in lost:
                self._interrupt(token, LeaseLost)
        self._renewed_at = time.monotonic()

    def _renew_for_ever(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            self._interrupt_the_overdue()
            if not self._is_time_to_renew():
                continue
            try:
                self.renew_now()
            except CollectkitError as error:
                logger.warning("leases could not be renewed: %s", error)
                time.sleep(0.5)
            except Exception:  # of this thread depend the leases of all runs of the process
                logger.exception("renewing leases failed, it is tried again")
                time.sleep(0.5)

    def _interrupt_the_overdue(self) -> None:
        with self._lock:
            overdue = [token for token, held in self._held.items() if time.monotonic() >= held.deadline]
        for token in overdue:
            self._interrupt(token, DeadlineExceeded)

    def _interrupt(self, token: UUID, reason: type[Interrupt]) -> None:
        # Under the lock: a run that has been let go must not be interrupted, its thread may be serving another.
        with self._lock:
            held = self._held.get(token)
            if held is None or held.interrupted:
                return
            reached("interrupt.before", held.claim.name)
            held.interrupted = interrupt(held.thread.ident or 0, reason)
        if held.interrupted:
            logger.warning("interrupted run %s of %s: %s", held.claim.run, held.claim.name, reason.__name__)

    def _interval(self) -> float:
        return min((held.ttl.total_seconds() / 3 for held in self._held.values()), default=10.0)

    def _is_time_to_renew(self) -> bool:
        with self._lock:
            return bool(self._held) and time.monotonic() - self._renewed_at >= self._interval() * 0.99

    def _pause(self) -> float:
        with self._lock:
            if not self._held:
                return 60.0
            now = time.monotonic()
            deadlines = (held.deadline for held in self._held.values() if not held.interrupted)
            return max(0.0, min(self._renewed_at + self._interval(), *deadlines, now + 60.0) - now)


leases = Leases()


class Sweep:
    """The thread that closes lapsed leases as LOST and nudges what is claimable, in every worker, without a lock.

    A lock would end all recovery if its holder were stopped; and two sweeps at once do no harm, because a close is
    conditional and a collector is nudged once in ten seconds whoever looks.

    Arguments:
        ttl: the lease's length.
        nudge: sends a nudge to each claimable collector that this process knows.
    """

    def __init__(self, ttl: timedelta, nudge: Callable[[], object]) -> None:
        self._ttl = ttl
        self._nudge = nudge
        self._interval = min(SWEEP_INTERVAL, ttl / 6)
        self._stopped = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._sweep_for_ever, name="collectkit-sweep", daemon=True)
        self._complaint = ""

    def start(self) -> None:
        """Begin to sweep, now and every five seconds."""
        self._thread.start()

    def look_now(self) -> None:
        """Sweep at once: what a run has unblocked, or made due, need not wait for the next turn."""
        self._woken.set()

    def stop(self) -> None:
        """Sweep no more; a sweep that is under way ends by itself."""
        self._stopped = True
        self._woken.set()

    def once(self) -> None:
        """Sweep: renew one's own, close the lapsed, nudge the claimable. One step's failure does not stop the next."""
        reached("sweep.before")
        leases.renew_now()
        for run in ledger.lapsed(self._ttl):
            try:
                if close_lost(run, self._ttl):
                    logger.warning("closed run %s of %s as LOST (%s)", run.run, run.name, run.worker)
            except Exception as error:  # noqa: BLE001 - one stuck row must not keep the others lost
                logger.warning("run %s of %s could not be closed as LOST yet: %s", run.run, run.name, error)
        self._nudge()

    def _sweep_for_ever(self) -> None:
        while not self._stopped:
            try:
                self.once()
            except CollectkitError as error:
                self._complain(str(error))
            except Exception:  # without this thread nobody here would notice a dead run
                logger.exception("a sweep failed, the next follows")
            else:
                self._complaint = ""
            time.sleep(_REST)
            self._woken.wait(self._interval.total_seconds())
            self._woken.clear()
        ledger_db.let_go()

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            logger.warning("sweep: %s", words)
        self._complaint = words
