"""A collector as an actor: a call is a nudge, and the way of a run to its close is one function, read top to bottom."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from dramatiq import Actor
from dramatiq.middleware import Interrupt

from collectkit import ledger, status
from collectkit.acl import RunScope
from collectkit.broker import broker
from collectkit.closing import close_lost, closing
from collectkit.counts import Counts
from collectkit.crashpoints import reached
from collectkit.database import database, settings_in_force
from collectkit.declaration import Options
from collectkit.errors import CollectkitError, DatabaseUnavailable, DeadlineExceeded, LeaseLost
from collectkit.guard import refuse_unsafe
from collectkit.ledger import Claim, Closing
from collectkit.maintenance import leases
from collectkit.reasons import one_line, storable, trace
from collectkit.run import Run

_CLOSE_PATIENCE = 5.0

logger = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True):
    """How a run that was asked for by hand ended.

    Attributes:
        outcome: OK, FAILED, LOST (somebody else closed it, a rewind for one) or HANDED_OVER; NOT_CLAIMED if there was
            no run at all.
        reason: one line; None if all is well.
        updated_until: the watermark afterwards.
    """

    name: str
    outcome: str
    reason: str | None
    counts: Counts
    updated_until: datetime | None


class Collector(Actor[..., Any]):
    """A dramatiq actor whose call is a nudge: it runs if the ledger says that it is due, else it does nothing.

    Made by ``@collector``. A message to it carries no truth, so it may be lost, late or doubled without harm.
    """

    def __init__(self, fn: Callable[[Run], object], *, declared: Options, **actor: Any) -> None:
        self.declared = declared
        self._is_safe = False
        super().__init__(fn, **actor)

    @property
    def name(self) -> str:
        """The collector's name, ``collectors.kev.tasks.kev_collector``."""
        return self.actor_name

    def instances(self) -> dict[str, str | None]:
        """Return the name and key of each instance; one without a key unless ``each`` was declared."""
        if self.declared.each is None:
            return {self.name: None}
        return {f"{self.name}[{key}]": key for key in self.declared.each()}

    def __call__(self, key: str | None = None) -> None:
        """Look whether the collector is due, and run it if so; quietly do nothing otherwise."""
        names = self.instances() if key is None else self._instance(key)
        for name, its_key in names.items():
            try:
                claim = self._claim(name, force=False, dry_run=None)
            except DatabaseUnavailable as error:
                logger.warning("%s was not looked at, the next sweep will: %s", name, error)
            else:
                if claim:
                    self._perform(claim, its_key)
                if broker.shutdown.is_over:
                    return

    def _instance(self, key: str) -> dict[str, str | None]:
        # Without asking ``each`` again: whether there is such an instance the ledger knows, and its claim asks that.
        return {} if self.declared.each is None else {f"{self.name}[{key}]": key}

    def run_now(self, dry_run: bool | None = None, *, key: str | None = None) -> Outcome:  # noqa: FBT001 - documented
        """Run in this process, whether due or not, and return how it went; pause, disabled, blocked and held stand.

        Arguments:
            dry_run: roll back every checkpoint; None leaves it to the declaration and the settings.
            key: which instance of a parametrised collector.
        """
        names = {its_key: name for name, its_key in self.instances().items()}
        if key not in names:
            message = f"collector {self.name!r} has no instance {key!r}: it has {', '.join(map(str, names)) or 'none'}"
            raise CollectkitError(message)
        name = names[key]
        ttl = settings_in_force().lease_ttl
        for lapsed in ledger.lapsed(ttl, name):
            close_lost(lapsed, ttl)
        claim = self._claim(name, force=True, dry_run=dry_run)
        if claim is None:
            return Outcome(name, "NOT_CLAIMED", status.reason(name), Counts(), None)
        return self._perform(claim, key)

    def _claim(self, name: str, *, force: bool, dry_run: bool | None) -> Claim | None:
        settings = settings_in_force()
        wishes = (dry_run, self.declared.dry_run, settings.dry_run)
        return ledger.claim(
            name,
            ttl=settings.lease_ttl,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            trigger="inline" if force else "due",
            force=force,
            dry_run=next((wish for wish in wishes if wish is not None), False),
        )

    def _perform(self, claim: Claim, key: str | None) -> Outcome:
        began = time.monotonic()
        ttl = settings_in_force().lease_ttl
        scope = RunScope(self.declared.acl)
        run = Run(claim, key=key, deadline=claim.started_at + self.declared.deadline, lease_ttl=ttl, scope=scope)
        outcome: ledger.Outcome = "FAILED"
        result: str | None = None
        reason: str | None = "was interrupted while its end was written down"

        def end() -> str | None:
            leases.let_go(claim)
            scope.close()
            database.release()
            if outcome == "LOST":
                return None
            how = closing(
                claim,
                outcome,
                at=claim.started_at + timedelta(seconds=time.monotonic() - began),
                backoff=self._backoff(claim.attempt),
                longest_backoff=self.declared.backoff[1],
                error=reason,
                result=result,
                # What was committed its checkpoint has noted, also where an interrupt kept that from ``run``.
                counts=msgspec.to_builtins(run.counts) if run.dry_run else None,
                acl=scope.acted_under(),
            )
            return _close(claim, how, ttl)

        try:
            run.log.info("run %s started (attempt %s of %s)", claim.run, claim.attempt, claim.max_attempts)
            leases.hold(claim, ttl, self.declared.deadline)
            self._refuse_unsafe()
            scope.open()
            reached("run.before", claim.name)
            said = self.fn(run)
            reached("run.after", claim.name)
            outcome, result, reason = "OK", None if said is None else storable(str(said)), None
        except BaseException as error:
            outcome, reason = self._verdict(error, run, claim)
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            while True:
                try:
                    complaint = end()
                    break
                except Interrupt:
                    # It comes too late: a run that has come this far is closed all the same.
                    continue
            if complaint is not None:
                outcome, reason = "LOST", complaint
        reached("run.closed", claim.name)
        level = logging.INFO if outcome in {"OK", "HANDED_OVER"} else logging.WARNING
        words = result if outcome == "OK" else reason
        run.log.log(level, "run %s %s in %.1f s: %s", claim.run, outcome, time.monotonic() - began, words or run.counts)
        return Outcome(claim.name, outcome, reason, run.counts, run.updated_until_dt)

    def _verdict(self, error: BaseException, run: Run, claim: Claim) -> tuple[ledger.Outcome, str]:
        """Return how a run ends that raised this, and why."""
        # An interrupt that nobody sent is the author's own: handed over, its run would begin again at once, for ever.
        told_to_stop = broker.shutdown.is_over or isinstance(error, KeyboardInterrupt)
        match error:
            case LeaseLost():
                return "LOST", str(error) or _lost(claim)
            case DeadlineExceeded():
                return "FAILED", f"passed its deadline of {self.declared.deadline}"
            case Interrupt() | KeyboardInterrupt() if told_to_stop:
                return "HANDED_OVER", "handed over: the process was told to stop"
            case CollectkitError():
                return "FAILED", storable("; ".join(str(error).splitlines()))
            case SystemExit():
                return "FAILED", storable(f"called sys.exit({error.code!r})")
        leases.let_go(claim)  # it has ended by itself: nothing of ours interrupts it while it says so
        run.log.error("run %s failed\n%s", run.id, trace(error))
        return "FAILED", one_line(error)

    def _refuse_unsafe(self) -> None:
        """Look at the access groups of its tables before its first run in this process, however that was started."""
        if not self._is_safe:
            refuse_unsafe(self.declared.data_models)
            self._is_safe = True

    def _backoff(self, attempt: int) -> timedelta:
        first, longest = self.declared.backoff
        return min(longest, first * (1 << min(attempt - 1, 30)))


def _close(claim: Claim, closing: Closing, ttl: timedelta) -> str | None:
    """Close the run, patiently; None if it is closed, else what became of it. May be repeated after an interrupt."""
    give_up = time.monotonic() + _CLOSE_PATIENCE
    while True:
        try:
            if ledger.close(claim, closing, ttl):
                return None
            ended = ledger.ending(claim)
            # Nobody else closes with these outcomes: it was this very close, whose answer was lost.
            return None if ended and ended[0] == closing.outcome else _lost(claim, ended)
        except Exception as error:  # noqa: BLE001 - another error is first
            if time.monotonic() > give_up:
                return f"{closing.outcome}, but not closed, so LOST when its lease lapses: {one_line(error)}"
            time.sleep(0.2)


def _lost(claim: Claim, ended: tuple[str, datetime] | None = None) -> str:
    how = f"closed as {ended[0]} at {ended[1]:%H:%M:%S}Z" if ended else "closed by somebody else"
    return f"lost its lease (run {claim.run}, fence {claim.fence}, {how})"
