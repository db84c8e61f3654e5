"""Child processes that die with their parent: a group of their own, an ending, and the kernel's promise to end them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1


class Child:
    """A process that is started, watched and ended without ever being waited for.

    Arguments:
        name: for people.
        ending: the signals that end it, each sent once, and the seconds that it has after each; then its whole group
            is killed.
    """

    def __init__(self, name: str, *ending: tuple[signal.Signals, float]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._ending = ending
        self._sent = 0
        self._patient_until = 0.0

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: IO[bytes] | None = None,
        become: Callable[[], None] | None = None,
    ) -> None:
        """Start the process; the arguments are those of ``spawn``."""
        dying = self._ending[0][0]
        self._sent, self._patient_until = 0, 0.0
        self.process = spawn(command, at_parents_death=dying, environ=environ, cwd=cwd, log=log, become=become)

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process is not None and self.process.poll() is None

    def end(self) -> bool:
        """Take the next step towards its end, if it is time for one; return whether it is gone."""
        if self.process is None:
            return True
        if self.process.poll() is not None:
            # What it started itself ends with it; whatever has not is of no more use.
            signal_group(self.process.pid, signal.SIGKILL)
            self.process = None
            return True
        if time.monotonic() >= self._patient_until:
            self._send_next(self.process)
        return False

    def hurry(self) -> None:
        """Kill its whole group with the next step."""
        self._sent, self._patient_until = max(self._sent, len(self._ending)), 0.0

    def _send_next(self, process: subprocess.Popen[bytes]) -> None:
        if self._sent < len(self._ending):
            number, patience = self._ending[self._sent]
            process.send_signal(number)
        else:
            patience = 1.0
            signal_group(process.pid, signal.SIGKILL)
        self._sent += 1
        self._patient_until = time.monotonic() + patience


def spawn(
    command: Sequence[str | Path],
    *,
    at_parents_death: signal.Signals = signal.SIGTERM,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: IO[bytes] | None = None,
    become: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a direct child in a process group of its own, which gets a signal when this process dies, however it dies.

    The kernel ties that to the thread that forks, so call it from one that lasts as long as the process.

    Arguments:
        at_parents_death: the signal that the child then gets (Linux only; elsewhere it is left an orphan).
        log: where its output goes; this process's own if not given.
        become: called in the child before the program starts; it may change whom the child runs as.
    """
    parent = os.getpid()

    def prepare() -> None:
        if become is not None:
            become()
        # After ``become``: the kernel forgets this wish when a process changes its credentials.
        die_with_parent(at_parents_death)
        if os.getppid() != parent:
            os._exit(1)  # it died before it could be said: nobody would ever end this process

    return subprocess.Popen(
        list(map(str, command)),
        env=None if environ is None else dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        process_group=0,
        preexec_fn=prepare,  # noqa: PLW1509 - what it does cannot be said to Popen; no other thread forks meanwhile
    )


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies; an orphan would work on for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def started_at(pid: int) -> str | None:
    """Return the kernel's start time of a living process; with the pid it names the process for good, None if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the process group that this child leads, 0 to only look; return whether there is one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # gone, and perhaps its number is another user's by now
        return False
    return True


def processes_in(directory: Path, program: str) -> list[int]:
    """Return the living processes of a program that have this directory as the one they work in (Linux only)."""
    found = []
    here = directory.stat()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_program = (entry / "comm").read_bytes().strip() == program.encode()
            if is_program and os.path.samestat(here, (entry / "cwd").stat()):
                found.append(int(entry.name))
        except OSError:  # gone, a zombie, or another user's
            continue
    return found
