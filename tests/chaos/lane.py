"""A lane: a database, a broker and sources of its own, and workers that are replaced when they die."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from tests.chaos.commits import WITNESS_OF_COMMITS
from tests.chaos.desk import Desk, Hit
from tests.chaos.processes import catches_sigterm
from tests.chaos.proxy import Proxy
from tests.chaos.subjects.sizes import GROUPS
from tests.chaos.truth import Truth
from tests.replay import Replay
from tests.site import ROOT, Servers, Site

TTL = 1.5
SUBJECTS = "tests.chaos.subjects"
_SCHEMA = """
SELECT 'column', table_schema, table_name, column_name, data_type || is_nullable || coalesce(column_default, '')
  FROM information_schema.columns WHERE table_schema IN ('collectkit', 'public')
UNION ALL
SELECT 'constraint', n.nspname, coalesce(r.relname, ''), c.conname, pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace LEFT JOIN pg_class r ON r.oid = c.conrelid
 WHERE n.nspname IN ('collectkit', 'public')
UNION ALL
SELECT 'index', schemaname, tablename, indexname, indexdef
  FROM pg_indexes WHERE schemaname IN ('collectkit', 'public')
UNION ALL
SELECT 'row security', n.nspname, r.relname, '', concat_ws('/', r.relrowsecurity, r.relforcerowsecurity)
  FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE r.relkind = 'r' AND n.nspname IN ('collectkit', 'public')
UNION ALL
SELECT 'policy', schemaname, tablename, policyname, concat_ws('/', permissive, roles, cmd, qual, with_check)
  FROM pg_policies WHERE schemaname IN ('collectkit', 'public')
UNION ALL
SELECT 'collector', '', name, schedule, concat_ws('/', tz, depends_on, after, data_models, enabled, max_attempts)
  FROM collectkit.collector WHERE retired_at IS NULL
ORDER BY 1, 2, 3, 4, 5
"""
WITNESS = (Path(__file__).parent / "witness.sql").read_text()


class Wire:
    """A process's way to both servers, which can be cut without touching anybody else's."""

    def __init__(self, servers: Servers) -> None:
        self.database = Proxy(servers.postgres._sockets / ".s.PGSQL.5432")
        self.broker = Proxy(servers.valkey._socket)
        self.process: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Tell whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def ready(self) -> bool:
        """Tell whether its process is a worker that has booted: from then on it catches SIGTERM."""
        return self.alive() and catches_sigterm(self.process.pid)

    def close(self) -> None:
        """Cut both for good."""
        self.database.close()
        self.broker.close()


class Lane(Site):
    """A site whose processes reach their servers by wires and report at crash points.

    Arguments:
        home: a short path of its own.
        replay: gives out what the collectors fetch.
        number: the lane's, from 1; database and broker have it in their names.
        workers: how many are kept running.
    """

    def __init__(
        self, home: Path, servers: Servers, replay: Replay, number: int, *, workers: int = 2, library: Path = ROOT
    ) -> None:
        home.mkdir()
        super().__init__(
            home,
            {},
            ttl=TTL,
            servers=servers,
            database=f"lane_{number}",
            library=library,
            groups=GROUPS,
            environ={
                "COLLECTKIT_COLLECTORS": SUBJECTS,
                "COLLECTKIT_CRASHPOINTS": "tests.chaos.inside:reached",
                "CHAOS_DIR": str(home),
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
            },
        )
        self.number = number
        self.truth = Truth(home, replay, f"/lane-{number}/snap.json")
        self.desk = Desk(home)
        self.wires = [Wire(servers) for _ in range(workers)]
        self.spare = Wire(servers)

    def __enter__(self) -> Self:
        super().__enter__()
        self.declared = self.schema(self.database)
        self.sql(WITNESS)
        self.sql(WITNESS_OF_COMMITS)
        self.upkeep()
        return self

    def __exit__(self, *error: object) -> None:
        self.desk.disarm()
        super().__exit__(*error)
        self.desk.close()
        for wire in [*self.wires, self.spare]:
            wire.close()

    def start(self, wire: Wire, *arguments: str, database: str = "") -> subprocess.Popen[bytes]:
        """Start a command whose connections go by this wire, to the lane's database if no other is named."""
        way = urlsplit(self.environ["COLLECTKIT_DATABASE_URL"])
        address = f"{way.username}:{way.password}@127.0.0.1:{wire.database.port}"
        wire.process = self.run(
            *arguments,
            COLLECTKIT_DATABASE_URL=f"postgresql://{address}/{database or self.database}",
            COLLECTKIT_BROKER_URL=f"redis://127.0.0.1:{wire.broker.port}/{self.number}",
        )
        return wire.process

    def upkeep(self) -> None:
        """Start a worker where one has died."""
        for wire in self.wires:
            if not wire.alive():
                if wire.process is not None:
                    self.end(wire.process)
                self.start(wire, "worker", "--threads=3")

    def end(self, process: subprocess.Popen[bytes], after: float = 0) -> None:
        """Kill what is left of the process and its group, after so many seconds, and forget it."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(after)
        try:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it has ended
        process.wait()
        self.processes.remove(process)

    def tidy(self) -> None:
        """Let go whoever waits at a crash point, and end the spare process."""
        self.desk.disarm()
        if self.spare.process is not None:
            self.end(self.spare.process)
            self.spare.process = None

    def wire_of(self, hit: Hit) -> Wire:
        """Return the wire of the process that waits at a crash point."""
        (wire,) = [each for each in [*self.wires, self.spare] if each.process and each.process.pid == hit.group]
        return wire

    def request(self, kind: str) -> None:
        """Ask for a run of the collector of this kind."""
        assert self.ask(f"chaos.{kind}")

    def at_rest(self) -> bool:
        """Tell whether nothing runs, and nothing is due or soon will be: a failed run is tried again in a second."""
        return not self.sql(
            "SELECT 1 FROM collectkit.collector"
            " WHERE holder IS NOT NULL OR next_due_at <= clock_timestamp() + interval '5 s'"
        )

    def runs_of(self, pid: int, after: int) -> list[int]:
        """Return the runs later than that one that this process has begun: it may have several at a time."""
        found = self.sql(
            "SELECT id FROM collectkit.run WHERE worker LIKE %s AND id > %s ORDER BY id", f"%:{pid}", after
        )
        return [number for (number,) in found]

    def schema(self, database: str) -> list[tuple[Any, ...]]:
        """Return all that ``migrate`` makes: tables with all that belongs to them, policies too, and declarations."""
        with psycopg.connect(self.servers.address_of(database), autocommit=True) as connection:
            return connection.execute(_SCHEMA).fetchall()

    def said_since(self, mark: int) -> str:
        """Return what the processes have said since the log had this many bytes."""
        with self.log_file.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")

    def mark(self) -> int:
        """Return how long the log is."""
        return self.log_file.stat().st_size


def dice(seed: int, *of: object) -> Random:
    """Return a generator of its own for each case, so that one can be replayed alone."""
    return Random("/".join(map(str, (seed, *of))))
