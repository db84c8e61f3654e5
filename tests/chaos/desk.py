"""Where processes under test report that they have reached an armed crash point, and wait for what is to happen."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread


@dataclass(frozen=True)
class Hit:
    """A process that waits at a crash point.

    Attributes:
        group: the process group, which the process that was started leads.
        ports: local ports of the waiting thread's connections to PostgreSQL.
    """

    point: str
    pid: int
    group: int
    ports: tuple[int, ...]
    line: socket.socket

    def go_on(self, word: bytes = b"go") -> None:
        """Let it go on; it may be dead by now, or have gone on before."""
        with suppress(OSError):
            self.line.sendall(word)
        self.line.close()


class Desk:
    """Arms the points of the processes that have this directory as their ``CHAOS_DIR``, and hears who reaches them."""

    def __init__(self, home: Path) -> None:
        self._armed = home / "armed"
        self._armed.mkdir()
        self._withheld = home / "withheld"
        self._hits: Queue[Hit] = Queue()
        self.heard: list[Hit] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(home / "desk.sock"))
        self._listener.listen(64)
        Thread(target=self._listen, name="desk", daemon=True).start()

    def arm(self, point: str, subject: str = "") -> None:
        """Have the next process that comes by at this point, for this subject, report and wait."""
        (self._armed / (f"{point}@{subject}" if subject else point)).touch()

    def withhold_interrupts(self) -> None:
        """Have nobody who lost its lease be told so: it goes on, and meets the ledger's guards."""
        self._withheld.touch()

    def interrupt_again(self) -> None:
        """Withhold them no more."""
        self._withheld.unlink(missing_ok=True)

    def disarm(self) -> None:
        """Have nobody wait, let go whoever does, and have interrupts strike again."""
        self.interrupt_again()
        for each in self._armed.iterdir():
            each.unlink(missing_ok=True)
        while self.hit():
            pass
        for hit in self.heard:
            hit.go_on()
        self.heard.clear()

    def hit(self, seconds: float = 0) -> Hit | None:
        """Return who has reached an armed point; None if nobody does in time."""
        try:
            hit = self._hits.get(timeout=seconds) if seconds else self._hits.get_nowait()
        except Empty:
            return None
        self.heard.append(hit)
        return hit

    def close(self) -> None:
        """Hear nobody any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            # The message is short and is sent at once, unless the process is killed before.
            heard = line.recv(1 << 16)
            if not heard:
                line.close()
                continue
            said = json.loads(heard)
            try:
                group = os.getpgid(said["pid"])
            except ProcessLookupError:
                line.close()
            else:
                self._hits.put(Hit(said["point"], said["pid"], group, tuple(said["ports"]), line))
