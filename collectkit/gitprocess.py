"""Running the program git: within a time and a size, interruptible at any moment, and never left behind."""

from __future__ import annotations

import os
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import unquote, urlsplit

from collectkit.errors import CollectkitError, FetchError
from collectkit.process import LOOK_SECONDS, Output, OutputEnded, Process
from collectkit.rejection import Rejected, unread

SILENCE_SECONDS = 60
"""After so long without a byte a transfer over HTTP ends. Till then its git may outlive a parent that was killed."""

_PIECE = 1 << 16
_LONGEST_REASON = 300
# The operator's own that reach git; the others (GIT_DIR of a hook, for one) speak of other repositories.
_KEPT = ("GIT_SSH", "GIT_SSL_", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH")
# Nothing may ask a person, or go on in the background; and what git says is read.
_ENVIRON = {"GIT_ASKPASS": "", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
_CONFIG = {
    "core.bigFileThreshold": "64m",  # what has more is not held in memory, however small it travels
    "core.hooksPath": os.devnull,
    "gc.autoDetach": "false",
    "gc.pruneExpire": "now",  # nobody else works in the clone
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": str(SILENCE_SECONDS),
}


class GitFailed(CollectkitError):
    """Git ended with an error; the reason is what it said."""


class Git:
    """The program git, called on one bare repository and one remote, ``origin``, that stands in no file.

    Arguments:
        directory: the repository.
        url: of the remote; user and password of http and https travel in a header, where no list of processes shows
            them, and to no other address: with them a redirect is an error.
        shown: the address as messages show it.
        ends: the ``time.monotonic()`` at which whatever runs is ended.
        max_bytes: the limit of the repository on disk.
        inherited: a file that git keeps open for as long as it lives, with a lock on it.
    """

    def __init__(
        self, directory: Path, *, url: str, shown: str, ends: float, max_bytes: int, inherited: IO[bytes]
    ) -> None:
        self.directory = directory
        self._shown = shown
        self._ends = ends
        self._max_bytes = max_bytes
        self._inherited = inherited
        self._remote, config = _remote(url)
        self._environ = _environ(directory, config)

    def run(self, *arguments: str, into: IO[bytes] | None = None) -> None:
        """Run it to its end; its output goes into the file.

        Raises:
            GitFailed: it said that it could not, or filled the disk beyond the limit; one line, without secrets.
            FetchError: it is not installed, or takes too long.
        """
        with TemporaryFile() as errors, self._start(arguments, errors, stdout=into or subprocess.DEVNULL) as process:
            looked = time.monotonic()
            while not process.ended(LOOK_SECONDS):
                self._check_time()
                if time.monotonic() > looked + 1:
                    looked = time.monotonic()
                    self.check_size()
            self._check(process, errors)

    def ask(self, *arguments: str) -> str:
        """Run it and return what it says; errors as in ``run``."""
        with TemporaryFile() as output:
            self.run(*arguments, into=output)
            output.seek(0)
            return output.read().decode(errors="replace").strip()

    def bodies(self, objects: IO[bytes], max_size: int) -> Iterator[bytes | Rejected]:
        """Yield the content of each object, one id a line in the file, as git reads them; errors as in ``run``.

        Arguments:
            max_size: the limit of one of them, in bytes; what has more comes out rejected.
        """
        with (
            TemporaryFile() as errors,
            self._start(("cat-file", "--batch", "--buffer"), errors, stdin=objects, stdout=subprocess.PIPE) as process,
        ):
            output = Output(process, self._check_time)
            while head := output.until(b"\n"):
                name, kind, *size = head.decode(errors="replace").split(" ")
                if kind != "blob":
                    raise GitFailed(f"object {name} is {kind}")
                try:
                    yield _body(output, name, int(size[0]), max_size)
                    output.exactly(1)
                except OutputEnded:
                    raise GitFailed("git ended in the middle of a file") from None
            while not process.ended(LOOK_SECONDS):
                self._check_time()
            self._check(process, errors)

    def check_size(self) -> None:
        """Return if the repository is not too large.

        Raises:
            GitFailed: it is.
        """
        size = sum(_size(each) for each in (self.directory / "objects").rglob("*"))
        if size > self._max_bytes:
            raise GitFailed(f"its clone takes {size:,} bytes, more than the limit of {self._max_bytes:,}")

    def _start(
        self,
        arguments: tuple[str, ...],
        errors: IO[bytes],
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int,
    ) -> Process:
        try:
            return Process(
                ["git", *arguments],
                env=self._environ,
                cwd=self.directory.parent,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                pass_fds=(self._inherited.fileno(),),
            )
        except FileNotFoundError:
            raise FetchError(self._shown, "the program git is not installed here: install it") from None

    def _check(self, process: Process, errors: IO[bytes]) -> None:
        if process.returncode:
            errors.seek(0)
            said = errors.read(_PIECE).decode(errors="replace").replace(self._remote, self._shown)
            raise GitFailed(_reason(said) or f"git ended with code {process.returncode}")

    def _check_time(self) -> None:
        if time.monotonic() >= self._ends:
            raise FetchError(self._shown, "git was not done in time")


def _body(output: Output, name: str, size: int, max_size: int) -> bytes | Rejected:
    if size <= max_size:
        return output.exactly(size)
    for at in range(0, size, _PIECE):
        output.exactly(min(_PIECE, size - at))
    return unread(name, size, max_size)


def _remote(url: str) -> tuple[str, Mapping[str, str]]:
    """Return the address as git is given it, and the configuration that says so."""
    address = urlsplit(url)
    user, at, host = address.netloc.rpartition("@")
    # A redirect from https must not give it up.
    kept = {"protocol.http.allow": "never"} if address.scheme == "https" else {}
    if not at or address.scheme not in {"http", "https"}:
        return url, {**kept, "remote.origin.url": url}
    name, _, password = user.partition(":")
    credentials = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    bare = address._replace(netloc=host).geturl()
    there = f"http.{address.scheme}://{host}/"
    return bare, {
        **kept,
        "remote.origin.url": bare,
        f"{there}.extraHeader": f"Authorization: Basic {credentials}",
        f"{there}.followRedirects": "false",  # git would send the header wherever it is led
    }


def _environ(directory: Path, config: Mapping[str, str]) -> Mapping[str, str]:
    pairs = list({**_CONFIG, **config}.items())
    numbered = {f"GIT_CONFIG_KEY_{number}": name for number, (name, _) in enumerate(pairs)}
    numbered |= {f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(pairs)}
    kept = {name: text for name, text in os.environ.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    return kept | _ENVIRON | numbered | {"GIT_CONFIG_COUNT": str(len(pairs)), "GIT_DIR": str(directory)}


def _reason(said: str) -> str:
    """Return the lines up to the one that git calls fatal, as one."""
    lines = []
    for line in said.splitlines():
        _, fatal, words = line.rpartition("fatal: ")
        lines.append((words if fatal else line).strip())
        if fatal:
            break
    return "; ".join(filter(None, lines))[:_LONGEST_REASON]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # git renames and removes while we look
        return 0
