"""Real servers and real processes of a test's own: what collectkit runs anywhere, and nothing in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from collectkit import statements
from collectkit.embedded import EmbeddedPostgres, EmbeddedValkey
from collectkit.groups import Acl, as_setting
from collectkit.scoped import SETTING
from collectkit.settings import Settings

ROOT = Path(__file__).parents[1]


class Servers:
    """A PostgreSQL and a Valkey below a directory, which several sites may share: each has a database of its own."""

    def __init__(self, home: Path) -> None:
        # What a crash of the machine would lose is of no interest; a crash of the server loses nothing without it.
        self.postgres = EmbeddedPostgres(home, settings={"fsync": "off", "max_connections": "400"})
        self.valkey = EmbeddedValkey(home)

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.valkey.stop()
        self.postgres.stop()

    def create_database(self, name: str) -> str:
        """Make an empty database, in place of one of that name, and return its address."""
        with psycopg.connect(self.address_of_superuser("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} OWNER collectkit")
        return self.address_of(name)

    def address_of(self, database: str) -> str:
        """Return the address of a database, by the server's socket."""
        return urlsplit(self.postgres.url)._replace(path=f"/{database}").geturl()

    def address_of_superuser(self, database: str) -> str:
        """Return the superuser's way to a database, as libpq reads it."""
        return psycopg.conninfo.make_conninfo(
            self.address_of(database),
            user="postgres",
            password=(self.postgres.home / "superuser.password").read_text(),
        )


class Site:
    """One database, one broker, a few packages of collectors, and as many processes as a test starts.

    Arguments:
        home: a short path of its own: sockets, packages and the log are in it.
        packages: the source of ``tasks.py`` by the package's name; collectors are called ``package.something``.
        ttl: the lease, in seconds.
        servers: shared ones; else the site has its own.
        database: of shared servers; the broker's database has the number at its end.
        library: where ``collectkit`` is imported from.
        groups: what the test's own connection acts under.
    """

    def __init__(
        self,
        home: Path,
        packages: Mapping[str, str],
        *,
        ttl: float = 3,
        servers: Servers | None = None,
        database: str = "collectkit",
        library: Path = ROOT,
        environ: Mapping[str, str] | None = None,
        groups: Acl | None = None,
    ) -> None:
        self.home = home
        self.packages = dict(packages)
        self.prefix = next(iter(packages), "")
        self.servers = servers or Servers(home)
        self.log_file = home / "log.txt"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._own_servers = servers is None
        self._acl = as_setting(groups.groups, Settings().acl_namespace) if groups else ""
        self.database = database
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTKIT_")}
        self.environ = {
            **kept,
            "COLLECTKIT_COLLECTORS": ",".join(packages),
            "COLLECTKIT_LEASE_TTL": str(ttl),
            "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys([library, home, ROOT]))),
            **(environ or {}),
        }

    def __enter__(self) -> Self:
        for package, tasks in self.packages.items():
            (self.home / package).mkdir(parents=True)
            (self.home / package / "__init__.py").touch()
            (self.home / package / "tasks.py").write_text(tasks)
        if self._own_servers:
            self.servers.__enter__()
            url, number = self.servers.postgres.url, ""
        else:
            url = self.servers.create_database(self.database)
            number = self.database.lstrip("abcdefghijklmnopqrstuvwxyz_")
        self.environ["COLLECTKIT_DATABASE_URL"] = url
        self.environ["COLLECTKIT_BROKER_URL"] = self.servers.valkey.url + (f"?db={number}" if number else "")
        self.connect()
        assert self.run("migrate").wait(60) == 0, self.log()
        # Nothing is due until a test says so; and a young server gives every lease one TTL more.
        self.sql("UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '1 day'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.connection.close()
        if self._own_servers:
            self.servers.__exit__(kind, error, trace)

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The database's server."""
        return self.servers.postgres

    @property
    def valkey(self) -> EmbeddedValkey:
        """The broker's server."""
        return self.servers.valkey

    def connect(self) -> None:
        """Open the test's own connection, anew after a restart of the server."""
        self.connection = psycopg.connect(
            self.environ["COLLECTKIT_DATABASE_URL"], autocommit=True, options=f"-c {SETTING}={self._acl}"
        )

    def run(self, *arguments: str, module: str = "collectkit", **environ: str) -> subprocess.Popen[bytes]:
        """Start a command; it leads a group of its own."""
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self.environ | environ,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and all that it has started."""
        os.killpg(process.pid, number)

    def log(self) -> str:
        """Return what all processes have said."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement on the test's own connection and return its rows."""
        cursor = self.connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def ask(self, name: str) -> datetime | None:
        """Ask for a run as the library does, by the collector's full name; return when, None if there is none."""
        asked = self.connection.execute(statements.REQUEST, {"name": name, "by": "test", "note": None}).fetchone()
        return asked and self.sql("SELECT at FROM collectkit.audit WHERE id = %s", *asked)[0][0]

    def due(self, name: str) -> None:
        """Make a collector of the first package due now."""
        self.sql(
            "UPDATE collectkit.collector SET next_due_at = clock_timestamp() WHERE name = %s", f"{self.prefix}.{name}"
        )

    def outcomes(self, name: str) -> list[str]:
        """Return the outcomes of all runs of a collector of the first package, the oldest first."""
        found = self.sql("SELECT outcome FROM collectkit.run WHERE collector = %s ORDER BY id", f"{self.prefix}.{name}")
        return [outcome for (outcome,) in found]

    def until(self, what: Callable[[], object], seconds: float = 60) -> None:
        """Return once it holds; fail with the end of the log if that takes too long."""
        give_up = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < give_up, self.log()[-3000:]
            time.sleep(0.05)

    def flag(self, pattern: str) -> Path | None:
        """Return a file that a process has left in the site's home."""
        return next(iter(self.home.glob(pattern)), None)
