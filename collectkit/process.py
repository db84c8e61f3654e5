"""A program as a part of a run: it can be interrupted at any moment, and nothing of it is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from collectkit.children import die_with_parent, signal_group

LOOK_SECONDS = 0.2
"""How long an interrupt (lease lost, deadline, shutdown) may have to wait: it reaches a thread between two looks."""

_PATIENCE = 2.0
_PIECE = 1 << 16


class OutputEnded(Exception):
    """A program has ended before it wrote all that it was to write."""


class Process(subprocess.Popen[bytes]):
    """A program that ends, with all that it started, when the ``with`` does or when nobody holds it any more.

    Arguments:
        command: the program and its arguments.
        options: of ``subprocess.Popen``.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        super().__init__(
            command,
            start_new_session=True,  # no terminal to ask at, and one group to end
            preexec_fn=partial(_prepare, os.getpid()),
            **options,
        )

    def ended(self, seconds: float) -> bool:
        """Wait for so long and tell whether it has ended.

        Popen's own waiting takes a lock each time it looks; an interrupt could leave it taken, and the next wait would
        have no end.
        """
        give_up, pause = time.monotonic() + seconds, 0.0005
        while not self._reaped():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, pause))
            pause = min(2 * pause, 0.05)
        return True

    def __exit__(self, *_: object) -> None:
        """End it: politely, so that it removes what it has half made."""
        if not self._reaped():
            signal_group(self.pid, signal.SIGTERM)
            self.ended(_PATIENCE)
        self._kill()
        if self.stdout is not None:
            self.stdout.close()

    def __del__(self) -> None:
        # An interrupt may strike after the fork and before the ``with`` has it.
        if getattr(self, "_child_created", False) and self.returncode is None:
            self._kill()
        super().__del__()

    def _kill(self) -> None:
        signal_group(self.pid, signal.SIGKILL)
        while not self.ended(LOOK_SECONDS):
            pass

    def _reaped(self) -> bool:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # an interrupt struck when the kernel had told
                self.returncode = -1
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode is not None


class Output:
    """What a process writes, taken piece by piece, so that one which is stopped holds no interrupt up."""

    def __init__(self, process: Process, check: Callable[[], None]) -> None:
        self._check = check
        self._kept = bytearray()
        self._fd = process.stdout.fileno()  # type: ignore[union-attr]  # it was started with a pipe
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def until(self, end: bytes) -> bytes:
        """Return what comes before ``end``; nothing if the output is over."""
        while (found := self._kept.find(end)) < 0:
            if not self._more():
                return b""
        line = bytes(self._kept[:found])
        del self._kept[: found + len(end)]
        return line

    def exactly(self, size: int) -> bytes:
        """Return so many bytes.

        Raises:
            OutputEnded: it is over before.
        """
        while len(self._kept) < size:
            if not self._more():
                raise OutputEnded
        taken = bytes(self._kept[:size])
        del self._kept[:size]
        return taken

    def _more(self) -> bool:
        while not self._poll.poll(LOOK_SECONDS * 1000):
            self._check()
        piece = os.read(self._fd, _PIECE)
        self._kept += piece
        return bool(piece)


def _prepare(parent: int) -> None:
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel was told: nobody would ever end this process
