"""A relay between a process and its server whose connections a test cuts, refuses, or robs of one answer."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

_PIECE = 1 << 16

# How PostgreSQL says that a statement was carried out. What it says when one is only prepared is no such answer.
_DONE = re.compile(
    rb"C\x00\x00\x00.((?:ALTER|BEGIN|COMMIT|COPY|CREATE|DELETE|DROP|INSERT|MERGE|SELECT|SET|UPDATE)[ A-Z0-9]*)\x00",
    re.DOTALL,
)


class _Link:
    """One connection of a client, and ours to the server in its name."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.port: int = client.getpeername()[1]
        self.loses_answer = False

    def sever(self) -> None:
        """End both connections; whoever reads or writes wakes up."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry bytes in one direction until either end is gone."""
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                sink.sendall(piece)
        self.sever()


class Proxy:
    """Listens on 127.0.0.1 for one process and relays to a server.

    Arguments:
        upstream: the server's unix socket, or its host and port.

    Attributes:
        lost: what the server had carried out where its answer was lost, as it says it: ``COMMIT``, ``CREATE TABLE``.
        spared: in the same words, what it said before that.
        refused: how many connections ended because the server was away, those that were refused among them.
    """

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        self._upstream = upstream if isinstance(upstream, tuple) else str(upstream)
        self._family = socket.AF_INET if isinstance(upstream, tuple) else socket.AF_UNIX
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._links: set[_Link] = set()
        self._lock = Lock()
        self._refuses = False
        self._spares = 0
        self._robs_the_next = False
        self.lost: list[str] = []
        self.spared: list[str] = []
        self.refused = 0
        Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def cut(self) -> set[int]:
        """End every connection there is; new ones are relayed. Return the client's ends."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.sever()
        return {link.port for link in links}

    def refuse(self, refuses: bool) -> None:
        """While it refuses, every connection ends at once: the server is away."""
        self._refuses = refuses
        if refuses:
            self.refused += len(self.cut())

    def ports(self) -> set[int]:
        """Return the client's ends of the connections that there are."""
        with self._lock:
            return {link.port for link in self._links}

    def lose_answer(self, ports: Collection[int] | None = None, spared: int = 0) -> None:
        """The next statement on one of these connections is carried out, and instead of its answer the connection ends.

        Arguments:
            ports: the client's ends; if they are not given, all that there are and will be.
            spared: so many answers still arrive before.
        """
        with self._lock:
            self._spares = spared
            self._robs_the_next = ports is None
            for link in self._links:
                link.loses_answer = ports is None or link.port in ports

    def lose_nothing(self) -> None:
        """Lose no answer after all."""
        with self._lock:
            self._disarm()

    def close(self) -> None:
        """Listen no more, and end every connection."""
        self._refuses = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _disarm(self) -> None:
        self._robs_the_next = False
        for link in self._links:
            link.loses_answer = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(self._family)
            try:
                if self._refuses:
                    self.refused += 1
                    raise ConnectionRefusedError
                server.connect(self._upstream)
                link = _Link(client, server)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                link.loses_answer = self._robs_the_next
                self._links.add(link)
            Thread(target=self._answers, args=(link,), name=f"answers-{link.port}", daemon=True).start()
            Thread(target=link.carry, args=(client, server), name=f"requests-{link.port}", daemon=True).start()

    def _answers(self, link: _Link) -> None:
        with suppress(OSError):
            while piece := link.server.recv(_PIECE):
                if link.loses_answer and self._loses(link, piece):
                    break
                link.client.sendall(piece)
        with self._lock:
            self._links.discard(link)
        link.sever()
        link.client.close()
        link.server.close()

    def _loses(self, link: _Link, piece: bytes) -> bool:
        """Tell whether what the server says is to be lost: of all armed connections, one loses one answer."""
        done = [found[1].decode() for found in _DONE.finditer(piece)]
        with self._lock:
            if not done or not link.loses_answer:
                return False
            if self._spares >= len(done):
                self._spares -= len(done)
                self.spared += done
                return False
            self.lost.append(done[self._spares])
            self._disarm()
        return True
