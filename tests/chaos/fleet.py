"""The soak's processes, kept running, and what is done to them and to their servers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import psycopg
import redis

from tests.site import Site


class Fleet:
    """Workers and schedulers, each started again when it dies.

    Arguments:
        random: decides who is struck, and how hard.
    """

    def __init__(self, site: Site, random: Random, workers: int, schedulers: int) -> None:
        self.site = site
        self.random = random
        self.done: Counter[str] = Counter()
        self._commands = [("worker", "--processes=2", "--threads=4")] * workers + [("scheduler",)] * schedulers
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._is_broker_away = False
        self.module = "collectkit"
        self.tend()

    def tend(self) -> None:
        """Start what has died, and do what is due now."""
        for number, command in enumerate(self._commands):
            process = self._running.get(number)
            if process is None or process.poll() is not None:
                if process is not None:
                    self._bury(process)
                self._running[number] = self.site.run(*command, module=self.module)
        for due in [each for each in self._later if each[0] <= time.monotonic()]:
            self._later.remove(due)
            due[1]()

    def strike(self, fault: str) -> None:
        """Do it."""
        getattr(self, f"_{fault}")()
        self.done[fault] += 1

    def calm(self) -> None:
        """Undo what is to be undone, and have all run."""
        for _, act in self._later:
            act()
        self._later.clear()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
        self.tend()

    def end(self) -> None:
        """Kill all of it."""
        for process in self._running.values():
            self._bury(process)
        self._running.clear()

    def _kill(self) -> None:
        """Kill one process of a command, or all of it, as a machine does that stops."""
        process = self._living()
        members = [process.pid, *_children(process.pid)]
        if len(members) > 1 and self.random.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(members), signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _stop(self) -> None:
        """Stop a command past its leases, and wake it."""
        process = self._living()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGSTOP)
        self._after(self.random.uniform(4, 8), lambda: _wake(process))

    def _term(self) -> None:
        """Tell a command to stop, as a deployment does."""
        self._living().terminate()

    def _flush(self) -> None:
        with suppress(redis.RedisError):
            redis.Redis.from_url(self.site.environ["COLLECTKIT_BROKER_URL"], socket_timeout=2).flushall()

    def _outage(self) -> None:
        """Have the broker away for a while; it comes back empty."""
        if not self._is_broker_away:
            self._is_broker_away = True
            self.site.valkey.stop()
            self._after(self.random.uniform(0.5, 5), self._back)

    def _back(self) -> None:
        self.site.valkey.start()
        self._is_broker_away = False

    def _postgres(self) -> None:
        """Kill the database: all at once, its main process, or one of its backends, after which it starts anew."""
        postmaster = self.site.postgres.child.process
        assert postmaster is not None
        how = self.random.random()
        if how < 0.2 and (backends := _children(postmaster.pid)):
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(backends), signal.SIGKILL)
            return
        postmaster.send_signal(signal.SIGQUIT if how < 0.7 else signal.SIGKILL)
        postmaster.wait()
        self.site.postgres.start()

    def _cut(self) -> None:
        """End every connection to the database but our own."""
        with suppress(psycopg.OperationalError):
            self.site.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
            )

    def _living(self) -> subprocess.Popen[bytes]:
        living = [process for process in self._running.values() if process.poll() is None]
        # Whoever is stopped waits for its waking; that it might be killed before is one of the cases.
        return self.random.choice(living or list(self._running.values()))

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        process.wait()
        if process in self.site.processes:
            self.site.processes.remove(process)


def _wake(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
