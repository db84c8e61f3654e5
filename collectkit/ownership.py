"""Who owns a state directory: one ``up`` at a time, and the next one ends what a killed one left."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from collectkit.children import Child, signal_group, started_at
from collectkit.errors import AlreadyRunning
from collectkit.state import private_directory, unusable

# The kernel has told it to end when its parent died; one that is stopped or hangs does not.
_PATIENCE = 5.0
_PAUSE = 0.05
# Of the record, padded with blanks; it has four children at most.
_SPACE = 1024


class _Record(msgspec.Struct, frozen=True):
    """What the locked file says: the owner, and the groups that its children lead, by pid and kernel start time."""

    pid: int = 0
    children: tuple[tuple[int, str], ...] = ()


class Ownership:
    """A state directory held by this process; the kernel lets go of it however the process ends.

    Arguments:
        state_dir: made if it is not there.

    Raises:
        AlreadyRunning: on entering, if another process holds it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._left: tuple[tuple[int, str], ...] = ()
        self._noted: _Record | None = None

    def __enter__(self) -> Self:
        private_directory(self._state_dir)
        path = self._state_dir / "up.json"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = self._read().pid
            os.close(self._file)
            raise AlreadyRunning(self._state_dir, pid) from None
        self._left = self._read().children
        try:
            self.note(())
        except OSError as error:
            os.close(self._file)
            raise unusable(path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.note(())
        os.close(self._file)

    def end_leftovers(self) -> None:
        """End what an earlier owner that was killed has left, patiently first."""
        began = time.monotonic()
        while left := [pid for pid, start in self._left if _is_there(pid, start)]:
            waited = time.monotonic() - began
            if waited > 2 * _PATIENCE:
                return  # nothing but zombies that nobody reaps
            if waited > _PATIENCE:
                for pid in left:
                    signal_group(pid, signal.SIGKILL)
            time.sleep(_PAUSE)

    def note(self, children: Iterable[Child]) -> None:
        """Write down which children run, for the one that comes after this process was killed."""
        pids = [each.process.pid for each in children if each.process is not None]
        record = _Record(os.getpid(), tuple((pid, start) for pid in pids if (start := started_at(pid)) is not None))
        if record != self._noted:
            # Over the last one, not after emptying the file: a disk that is full by now has no room to give back.
            os.pwrite(self._file, msgspec.json.encode(record).ljust(_SPACE), 0)
            self._noted = record

    def _read(self) -> _Record:
        try:
            return msgspec.json.decode(os.pread(self._file, 1 << 16, 0), type=_Record)
        except msgspec.MsgspecError:
            return _Record()  # new, or its writer was killed in the middle


def _is_there(pid: int, start: str) -> bool:
    """Tell whether the group is still there; its number may have passed to another process by now."""
    return started_at(pid) in {None, start} and signal_group(pid, 0)
