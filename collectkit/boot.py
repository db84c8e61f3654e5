"""Composition of a worker or scheduler process: ``setup()``, and what starts once a worker has forked."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence

import dramatiq
from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy

from collectkit import logs
from collectkit.broker import broker
from collectkit.children import die_with_parent
from collectkit.crashpoints import reached
from collectkit.database import connect
from collectkit.discovery import Discovered, discover
from collectkit.drift import warn_of_drift
from collectkit.errors import CollectkitError, DatabaseUnavailable, DeclarationError
from collectkit.guard import refuse_unsafe
from collectkit.interrupts import CarefulShutdown
from collectkit.maintenance import Sweep
from collectkit.nudging import Nudger
from collectkit.settings import Settings, load_settings

# Seconds; runs that are interrupted end within a few.
_ORPHANS_PATIENCE = 30

logger = logging.getLogger(__name__)


class WorkerBoot(Middleware):
    """Starts the sweep when a worker process has forked: threads and connections do not survive a fork.

    The renewal of leases needs no hook, it starts with the first run. If this hook failed, other workers would sweep.
    """

    def __init__(self, settings: Settings, discovered: Discovered) -> None:
        self._settings = settings
        self._discovered = discovered
        self._sweep: Sweep | None = None

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002 - dramatiq's signature
        """Start to sweep."""
        # dramatiq's main process may be killed, and an orphan would work on for ever.
        _stop_when_orphaned()
        reached("start.worker")
        warn_of_drift(self._discovered)
        nudger = Nudger(self._discovered.collectors.values())
        self._sweep = Sweep(self._settings.lease_ttl, nudger.nudge_due)
        self._sweep.start()

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002 - dramatiq's signature
        message: MessageProxy,  # noqa: ARG002
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        """Nudge what the run that has ended leaves due: its followers, what it unblocked, itself if asked for again."""
        if self._sweep is not None:
            self._sweep.look_now()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002 - dramatiq's signature
        """Sweep no more; leases are renewed until their runs have ended."""
        reached("shutdown.before")
        if self._sweep is not None:
            self._sweep.stop()


def setup() -> None:
    """Make this process ready to work: settings, database, broker, collectors. For dramatiq's and periodiq's commands.

    ``dramatiq collectkit:setup collectors`` and ``periodiq collectkit:setup collectors`` call it. What is wrong is said
    in a line each and ends the process with exit code 1; a module that cannot be imported is only reported, the other
    collectors run.
    """
    reached("start.setup")
    try:
        settings = load_settings()
        logs.configure(settings.log_format)
        discovered = compose(settings)
    except CollectkitError as error:
        sys.exit(f"collectkit: {error}")
    # It ends first: a sweep would nudge what runs hand over, and this process, which begins nothing, would take it.
    broker.add_middleware(WorkerBoot(settings, discovered), before=CarefulShutdown)


def compose(settings: Settings) -> Discovered:
    """Connect database and broker, make ours dramatiq's global broker, and find the collectors.

    Raises:
        DeclarationError: the dependency graph cannot work; every fault is listed, those of imports with them.
        UnsafeRole, UnsafeTables: row security would not hold; said with the statements that mend it.
        CollectkitError: a server's address cannot be found out.
    """
    connect(settings)
    broker.connect(settings.broker_url or _embedded_broker(settings))
    dramatiq.set_broker(broker)
    discovered = discover(settings.collectors)
    for fault in discovered.import_faults:
        logger.error("%s", fault)
    faults: Sequence[str] = discovered.faults()
    if len(faults) > len(discovered.import_faults):
        raise DeclarationError(faults)
    try:
        refuse_unsafe(discovered.models())
    except DatabaseUnavailable as error:
        # A collector looks again before its first run, and no unsafe role gets a connection to its tables.
        logger.warning("access groups were not looked at yet: %s", error)
    return discovered


def nudge_now(settings: Settings) -> None:
    """Nudge what is due at once, if the broker can be reached; if not, the next sweep of a worker does it."""
    try:
        Nudger(compose(settings).collectors.values()).nudge_due()
    except CollectkitError as error:
        logger.debug("not nudged, a worker's sweep will: %s", error)


def _stop_when_orphaned() -> None:
    # The kernel may tell of the death more than once, for each thread of the parent that ends, and dramatiq takes a
    # second SIGTERM as the order to drop its runs. So it tells by another signal, which is heeded once.
    def stop(*_: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # A process that was still booting waits for an answer of the one that is gone: it ends all the same.
        signal.alarm(_ORPHANS_PATIENCE)
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, stop)
        die_with_parent(signal.SIGUSR1)
        if _is_orphan():
            os._exit(1)  # no run has begun


def _is_orphan() -> bool:
    """Tell whether dramatiq's main process has died already: the kernel tells of later deaths only."""
    main = multiprocessing.parent_process()
    # A fork server is the parent of what it forks, and ends with the main process by itself.
    return main is not None and multiprocessing.get_start_method() != "forkserver" and os.getppid() != main.pid


def _embedded_broker(settings: Settings) -> str:
    from collectkit.embedded import broker_url

    return broker_url(settings.state_dir)
