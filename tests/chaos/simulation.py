"""Schedulers and a worker in simulated time: real ones, on a real database and broker, whose clock goes as told.

Each scheduler's ``loop()`` goes on in a thread of its own. Its sleep alone is another one: when all sleep, the worker
does what it was nudged to; then the clock of the database is set to when the first of them wants to wake, and all wake
at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from collectkit import Collector, CronSpec, Run, collector
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.discovery import describe
from collectkit.migrate import migrate
from collectkit.scheduler import Scheduler
from tests.chaos.clock import Clock

LONGEST_SLEEP = timedelta(seconds=5)
LATER_THAN_DUE = timedelta(milliseconds=1)
QUEUE = "collectors"
# A thread may not say what it does on a signal.
_NO_SIGNALS = SimpleNamespace(SIGTERM=0, SIGINT=0, signal=lambda *_: None)


class Simulation:
    """Collectors with these schedules, all of them served up to ``start``.

    Arguments:
        schedulers: how many there are.
        longest_sleep: what a scheduler is held to while nothing happens. With more than the true five seconds a year
            passes in minutes; and it is stricter, for one that forgets a due time is not woken in time by chance.
    """

    def __init__(
        self,
        clock: Clock,
        schedules: Iterable[CronSpec],
        start: datetime,
        schedulers: int = 1,
        longest_sleep: timedelta = LONGEST_SLEEP,
    ) -> None:
        self._clock = clock
        self.longest_sleep = longest_sleep
        self._passed = timedelta(0)
        self.set(start)
        ledger_db.run("TRUNCATE collectkit.run, collectkit.collector")
        broker.client.flushall()
        for name in [name for name in broker.actors if name.startswith("year.")]:
            del broker.actors[name]
        self.collectors = [
            collector(periodic=schedule, name=f"year.n{number}")(self._note)
            for number, schedule in enumerate(schedules)
        ]
        migrate(describe(self.collectors))
        self._consumer = broker.consume(QUEUE, prefetch=1000, timeout=1)
        self.schedulers = [Scheduler(self.collectors) for _ in range(schedulers)]
        self.forget()
        # The first run of everybody, which waits for no tick.
        self.pass_until(start)
        self.forget()

    def forget(self) -> None:
        """Have seen no run yet."""
        self.nudges = 0
        self.runs: list[tuple[str, datetime, datetime | None]] = []
        """Of each: the collector, when it began, and the due time that it served."""

    def restart(self) -> None:
        """Have all schedulers start anew: they know nothing yet."""
        self.schedulers = [Scheduler(self.collectors) for _ in self.schedulers]

    def set(self, now: datetime) -> None:
        """Set the clock, while nobody looks."""
        self.now = now
        self._clock.stand(now)

    def let_pass(self, time: timedelta) -> None:
        """Have so much time pass, for all clocks."""
        self._passed += time
        self.set(self.now + time)

    def monotonic(self) -> float:
        """Return the seconds that have passed, however often the database's clock was set."""
        return self._passed.total_seconds()

    def pass_until(self, end: datetime) -> None:
        """Let time pass, with schedulers that look now, whenever they want to, and at the end."""
        sleep = _Sleep(self, end)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(self.schedulers)) as threads:
            patch.setattr("collectkit.scheduler.signal", _NO_SIGNALS)
            patch.setattr("collectkit.scheduler._LONGEST_SLEEP", self.longest_sleep.total_seconds())
            for each in [threads.submit(_play, scheduler, sleep) for scheduler in self.schedulers]:
                each.result()

    def work(self) -> bool:
        """Have the worker do what it was nudged to; return whether there was anything."""
        before = self.nudges
        for message in self._consumer:
            if message is None:
                break
            self.nudges += 1
            actor = broker.actors[message.actor_name]
            assert isinstance(actor, Collector)
            actor(*message.args)
            self._consumer.ack(message)
        return self.nudges > before

    def close(self) -> None:
        """Forget the collectors."""
        self._consumer.close()
        for each in self.collectors:
            broker.actors.pop(each.name, None)

    def _note(self, run: Run) -> None:
        self.runs.append((run.name, run.started_at, run.scheduled_for))


class _Sleep(threading.Event):
    """What the schedulers sleep on, and what tells them to stop."""

    def __init__(self, simulation: Simulation, end: datetime) -> None:
        super().__init__()
        self.barrier = threading.Barrier(len(simulation.schedulers), self._pass)
        self._simulation = simulation
        self._end = end
        self._asked: list[timedelta] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Return when time has passed."""
        self._asked.append(timedelta(seconds=timeout or 0))
        self.barrier.wait()
        return self.is_set()

    def _pass(self) -> None:
        """Let the time pass for which the first wants to sleep: one thread does, while the others wait for it."""
        simulation = self._simulation
        if simulation.work():
            # They do not know yet when those are due again, and would find out within five seconds.
            self._asked.append(LONGEST_SLEEP)
        passed = min(*self._asked, self._end - simulation.now)
        self._asked.clear()
        if passed:
            simulation.let_pass(passed)
        else:
            self.set()


def _play(scheduler: Scheduler, sleep: _Sleep) -> None:
    scheduler._stopped = sleep
    try:
        scheduler.loop()
    except BaseException:
        sleep.barrier.abort()  # the others would wait for this one
        raise
    finally:
        ledger_db.let_go()
