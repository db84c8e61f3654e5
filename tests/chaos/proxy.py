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
_DONE = re.compile(rb"C\x00\x00\x00.(BEGIN|COMMIT|COPY|DELETE|INSERT|SELECT|SET|UPDATE)[ 0-9]*\x00", re.DOTALL)


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
    """

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        self._upstream = upstream if isinstance(upstream, tuple) else str(upstream)
        self._family = socket.AF_INET if isinstance(upstream, tuple) else socket.AF_UNIX
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._links: set[_Link] = set()
        self._lock = Lock()
        self._refuses = False
        Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def cut(self) -> None:
        """End every connection there is; new ones are relayed."""
        for link in self._all():
            link.sever()

    def refuse(self, refuses: bool) -> None:
        """While it refuses, every connection ends at once: the server is away."""
        self._refuses = refuses
        if refuses:
            self.cut()

    def lose_answer(self, ports: Collection[int] = ()) -> None:
        """The next statement on one of these connections is carried out, and instead of its answer the connection ends.

        Arguments:
            ports: the client's ends; all that there are if none is given.
        """
        with self._lock:
            for link in self._links:
                link.loses_answer = not ports or link.port in ports

    def lose_nothing(self) -> None:
        """Lose no answer after all."""
        with self._lock:
            for link in self._links:
                link.loses_answer = False

    def close(self) -> None:
        """Listen no more, and end every connection."""
        self._refuses = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _all(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(self._family)
            try:
                if self._refuses:
                    raise ConnectionRefusedError
                server.connect(self._upstream)
                link = _Link(client, server)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._links.add(link)
            Thread(target=self._answers, args=(link,), name=f"answers-{link.port}", daemon=True).start()
            Thread(target=link.carry, args=(client, server), name=f"requests-{link.port}", daemon=True).start()

    def _answers(self, link: _Link) -> None:
        with suppress(OSError):
            while piece := link.server.recv(_PIECE):
                if link.loses_answer and _DONE.search(piece):
                    self.lose_nothing()  # more: one answer is lost, whichever comes first
                    break
                link.client.sendall(piece)
        with self._lock:
            self._links.discard(link)
        link.sever()
        link.client.close()
        link.server.close()
