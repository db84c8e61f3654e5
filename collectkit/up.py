"""``collectkit up``: everything on one machine; one loop compares what should run with what does."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from collectkit.children import Child
from collectkit.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from collectkit.errors import CollectkitError
from collectkit.keeper import Keeper, Service, say
from collectkit.ownership import Ownership
from collectkit.settings import Settings

_TICK = 0.1
_REST = 1.0


class Up:
    """All that runs: servers where no URL is set, then the migration, then worker, scheduler and service.

    Arguments:
        settings: of this process; its children read the same environment.
        processes, threads: of the worker.
    """

    def __init__(self, settings: Settings, *, processes: int, threads: int) -> None:
        self._settings = settings
        self._environ = dict(os.environ)
        self._servers: dict[str, Keeper] = {}
        if settings.database_url is None:
            self._servers["COLLECTKIT_DATABASE_URL"] = Keeper(EmbeddedPostgres(settings.state_dir))
        if settings.broker_url is None:
            self._servers["COLLECTKIT_BROKER_URL"] = Keeper(EmbeddedValkey(settings.state_dir))
        worker = ["worker", f"--processes={processes}", f"--threads={threads}"]
        self._migration = Service("migration", ["migrate"], self._environ, patience=5.0)
        self._migrated = False
        # The worker hands its runs over within 15 s, gunicorn answers its last requests within 5 s.
        self._services = [
            Keeper(Service("worker", worker, self._environ, patience=20.0)),
            Keeper(Service("scheduler", ["scheduler"], self._environ, patience=5.0)),
            Keeper(Service("service", ["serve"], self._environ, patience=10.0, bind=settings.bind)),
        ]
        self._announced = False

    def tend(self) -> bool:
        """Start what is missing, as far as what it needs is there; return whether everything runs."""
        answers = [keeper.tend() for keeper in self._servers.values()]
        if not all(answers) or not self._migrate():
            return False
        runs = [keeper.tend() for keeper in self._services]
        if all(runs) and not self._announced:
            self._announced = True
            say(f"worker, scheduler and service (http://{self._settings.bind}) run; Ctrl-C stops all")
            say("`collectkit status` shows how the collectors stand, here; `collectkit user add` lets others ask")
        return all(runs)

    def stop(self, signals: Signals) -> None:
        """End everything, what needs a server before the servers; at a second signal without patience for it."""
        children = self.children()
        while not _all_gone(children):
            if signals.stops > 1:
                for child in children:
                    child.hurry()
            signals.wait(_TICK)
        while not _all_gone([keeper.kept.child for keeper in self._servers.values()]):
            signals.wait(_TICK)

    def children(self) -> list[Child]:
        """Return the children that the next ``up`` has to end if this one is killed; the servers see to themselves."""
        return [self._migration.child, *(keeper.kept.child for keeper in self._services)]

    def _migrate(self) -> bool:
        process = self._migration.child.process
        if self._migrated:
            return True
        if process is None:
            for variable, keeper in self._servers.items():
                if isinstance(keeper.kept, EmbeddedServer):
                    self._environ[variable] = keeper.kept.url
                    say(f"{keeper.kept.child.name} runs in {keeper.kept.home}")
            self._migration.launch()
        elif process.poll() is not None:
            if process.returncode:
                raise CollectkitError("the migration failed, so nothing was started: mend what the lines above say")
            self._migrated = True
        return self._migrated


class Signals:
    """Turns SIGINT, SIGTERM and the end of a child into something that a loop can wait for, none of them lost.

    An exception out of a signal handler would be: whatever code it happens to hit may swallow it.
    """

    def __init__(self) -> None:
        self.stops = 0

    def __enter__(self) -> Self:
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._writer = writer
        self._before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float) -> None:
        """Return when a signal has come, or after this time."""
        if select.select([self._reader], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)

    def _note(self, number: int, _: object) -> None:
        self.stops += number != signal.SIGCHLD


def run_up(settings: Settings, *, processes: int, threads: int) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code.

    Raises:
        AlreadyRunning: another ``up`` owns the state directory.
        CollectkitError: something does not come up the first time; all that was started is stopped again.
    """
    with Ownership(settings.state_dir) as ownership, Signals() as signals:
        ownership.end_leftovers()
        _check_free(settings.bind)
        up = Up(settings, processes=processes, threads=threads)
        try:
            while not signals.stops:
                runs = up.tend()
                ownership.note(up.children())
                signals.wait(_REST if runs else _TICK)
            say("stopping")
        finally:
            up.stop(signals)
    say("stopped")
    return 0


def _all_gone(children: Iterable[Child]) -> bool:
    gone = [child.end() for child in children]
    return all(gone)


def _check_free(bind: str) -> None:
    host, _, port = bind.rpartition(":")
    with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn: what lingers does not hinder it
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            message = f"the service cannot listen at {bind} ({error.strerror}): set COLLECTKIT_BIND to another address"
            raise CollectkitError(message) from None
