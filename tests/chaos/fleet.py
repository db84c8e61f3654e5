"""The soak's processes, kept running, and what is done to them and to their servers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

import psycopg
import redis

from tests.chaos.processes import is_alive, members, state
from tests.site import Site

_EAGER = 0.6
"""How often it has to be one who holds a lease: by lot alone it would mostly be a scheduler, or somebody idle."""

WORKER = ("worker", "--processes=2", "--threads=4")
SCHEDULER = ("scheduler",)

HOLDERS = (
    "SELECT DISTINCT split_part(r.worker, ':', 2)::int FROM collectkit.run r JOIN collectkit.collector c"
    " ON c.name = r.collector AND c.fence = r.fence WHERE "
)
"""The processes that hold a collector of which that is true which follows."""


class Fleet:
    """Workers and schedulers, each started again when it dies.

    Arguments:
        random: decides who is struck, and how hard.
        commands: what runs, one process each; ``module`` is what they are commands of.
        holders: tells which processes hold a lease now; without it nobody is preferred.
    """

    def __init__(
        self,
        site: Site,
        random: Random,
        commands: Sequence[tuple[str, ...]],
        holders: Callable[[], set[int]] | None = None,
        *,
        module: str = "collectkit",
    ) -> None:
        self.site = site
        self.random = random
        self._holders = holders or set
        self._eager = _EAGER if holders else 0.0
        self.done: Counter[str] = Counter()
        self._commands = commands
        self._module = module
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._told: set[int] = set()
        self._is_broker_away = False
        self.tend()

    def tend(self) -> None:
        """Start what has died, and do what is due now."""
        for number, command in enumerate(self._commands):
            process = self._running.get(number)
            if process is None or process.poll() is not None:
                if process is not None:
                    self._bury(process)
                self._running[number] = self.site.run(*command, module=self._module)
        for due in [each for each in self._later if each[0] <= time.monotonic()]:
            self._later.remove(due)
            due[1]()

    def strike(self, fault: str) -> bool:
        """Do it if there is somebody to do it to, and tell whether it took effect: only then it is counted."""
        took: bool = getattr(self, f"_{fault}")()
        self.done[fault] += took
        return took

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

    def _kill(self) -> bool:
        """Kill one process of a command, or all of it, as a machine does that stops."""
        # Whoever is stopped waits for its waking; that it might be killed before is one of the cases.
        process, holding = self._draw(self._living())
        if process is None:
            return False
        victims, how = members(process.pid), self.random.random()
        if how < 0.4:
            victims = [self.random.choice(holding or victims)]
        elif how < 0.6:
            victims = [process.pid]
        with suppress(ProcessLookupError):
            if how < 0.6:
                os.kill(victims[0], signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
            self._count_holders("kill", victims)
            return True
        return False

    def _stop(self) -> bool:
        """Stop a command past its leases, and wake it."""
        process, _ = self._draw([each for each in self._living() if state(each.pid) != "T"])
        if process is None:
            return False
        try:
            os.killpg(process.pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False
        self._count_holders("stop", members(process.pid))
        self._after(self.random.uniform(4, 8), lambda: self._wake(process))
        return True

    def _wake(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)
            self.done["woken"] += 1

    def _term(self) -> bool:
        """Tell a command to stop, as a deployment does."""
        living = [each for each in self._living() if each.pid not in self._told and state(each.pid) != "T"]
        if not living:
            return False
        process = self.random.choice(living)
        process.terminate()
        self._told.add(process.pid)
        return True

    def _flush(self) -> bool:
        try:
            redis.Redis.from_url(self.site.environ["COLLECTKIT_BROKER_URL"], socket_timeout=2).flushall()
        except redis.RedisError:
            return False
        return True

    def _outage(self) -> bool:
        """Have the broker away for a while; it comes back empty."""
        if self._is_broker_away:
            return False
        self._is_broker_away = True
        self.site.valkey.stop()
        self._after(self.random.uniform(0.5, 5), self._back)
        return True

    def _back(self) -> None:
        self.site.valkey.start()
        self._is_broker_away = False

    def _postgres(self) -> bool:
        """Kill the database: all at once, its main process, or one of its backends, after which it starts anew."""
        postmaster = self.site.postgres.child.process
        assert postmaster is not None
        how = self.random.random()
        if how < 0.2:
            try:
                os.kill(self.random.choice(members(postmaster.pid)[1:]), signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                return False
            return True
        postmaster.send_signal(signal.SIGQUIT if how < 0.7 else signal.SIGKILL)
        postmaster.wait()
        self.site.postgres.start()
        return True

    def _cut(self) -> bool:
        """End every connection to the database but our own."""
        with suppress(psycopg.OperationalError):
            return bool(
                self.site.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
                )
            )
        return False

    def _living(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._running.values() if process.poll() is None and is_alive(process.pid)]

    def _draw(self, among: list[subprocess.Popen[bytes]]) -> tuple[subprocess.Popen[bytes] | None, list[int]]:
        """Draw a command, mostly one that holds a lease, and return it with those of its processes that do.

        If nobody does where one should, nobody is drawn: in a moment somebody will.
        """
        is_eager = self.random.random() < self._eager
        holders = self._holders() if is_eager else set()
        if is_eager:
            among = [each for each in among if holders & {*members(each.pid)}]
        if not among:
            return None, []
        process = self.random.choice(among)
        return process, sorted(holders & {*members(process.pid)})

    def _count_holders(self, fault: str, pids: list[int]) -> None:
        """Look, now that it is done, whether one of these still has a lease: then it was cut short."""
        self.done[f"{fault} of a holder"] += bool(self._holders() & {*pids})

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        process.wait()
        self._told.discard(process.pid)
        if process in self.site.processes:
            self.site.processes.remove(process)
