"""Keeping one process running: it is started, and started again, with a growing pause, when it dies."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from collectkit.children import Child
from collectkit.embedded import EmbeddedServer
from collectkit.errors import CollectkitError

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 30.0
_STEADY_AFTER = 60.0
_SERVER_PATIENCE = 60.0


class Service:
    """One of collectkit's own commands as a child.

    Arguments:
        name: for people.
        arguments: of ``collectkit``.
        environ: what the child sees; it may be filled later, until the first launch.
        patience: seconds from SIGTERM to SIGKILL.
        bind: the address that it listens at, ``host:port``, if it does.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environ: Mapping[str, str], *, patience: float, bind: str = ""
    ) -> None:
        self.child = Child(name, (signal.SIGTERM, patience))
        self._arguments = arguments
        self._environ = environ
        self._bind = bind

    def launch(self) -> None:
        """Start the process."""
        self.child.start([sys.executable, "-m", "collectkit", *self._arguments], environ=self._environ)

    def ready(self) -> bool:
        """Tell whether it listens; nobody has to wait for one that does not."""
        return not self._bind or _listens(self._bind)


class Keeper:
    """Keeps one server or service running: starts it, and starts it again, with a growing pause, when it dies.

    Arguments:
        kept: what is to run.
    """

    def __init__(self, kept: EmbeddedServer | Service) -> None:
        self.kept = kept
        self._backoff = _FIRST_BACKOFF
        self._launch_at = 0.0
        self._launched_at = 0.0
        self._waited_for = True
        self._was_ready = False

    def tend(self) -> bool:
        """Do what is due now and return whether others may count on it: it has answered once.

        What dies later holds nobody up, for the others are made to live through that.

        Raises:
            CollectkitError: it does not come up the first time.
        """
        now = time.monotonic()
        if self.kept.child.process is None:
            if now >= self._launch_at:
                self._launch(now)
        elif not self.kept.child.alive():
            self._bury(now)
        elif self._waited_for and self.kept.ready():
            self._waited_for, self._was_ready = False, True
        elif self._waited_for and not self._was_ready and now > self._launched_at + _SERVER_PATIENCE:
            raise self._failure()
        return self._was_ready

    def _launch(self, now: float) -> None:
        self._launched_at, self._waited_for = now, True
        try:
            self.kept.launch()
        except (CollectkitError, OSError) as error:
            words = str(error) if isinstance(error, CollectkitError) else f"{self.kept.child.name}: {error}"
            if not self._was_ready:
                raise CollectkitError(words) from error
            say(words)
            self._pause(now)

    def _bury(self, now: float) -> None:
        process, self.kept.child.process = self.kept.child.process, None
        if not self._was_ready:
            raise self._failure()
        if now > self._launched_at + _STEADY_AFTER:
            self._backoff = _FIRST_BACKOFF
        code = process.returncode if process else None
        say(f"{self.kept.child.name} ended with code {code} and is started again in {self._backoff:.0f} s")
        self._pause(now)

    def _pause(self, now: float) -> None:
        self._launch_at = now + self._backoff
        self._backoff = min(_LONGEST_BACKOFF, self._backoff * 2)

    def _failure(self) -> CollectkitError:
        if isinstance(self.kept, EmbeddedServer):
            return self.kept.failure()
        return CollectkitError(f"the {self.kept.child.name} did not start: the lines above say why")


def say(words: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"collectkit up: {words}", flush=True)  # noqa: T201 - what a person at the terminal waits for


def _listens(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    except OSError:
        return False
