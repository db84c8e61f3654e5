"""Schedulers and a worker in simulated time: real ones, on a real database and broker, whose clock goes as told.

A scheduler's loop is played as it is: it looks, asks when the next due time comes, and sleeps until then, five seconds
at most. Only the sleeping is done by the clock of the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from collectkit import Collector, CronSpec, Run, collector, ledger
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.discovery import describe
from collectkit.migrate import migrate
from collectkit.scheduler import Scheduler
from tests.chaos.clock import Clock

LONGEST_SLEEP = timedelta(seconds=5)
LATER_THAN_DUE = timedelta(milliseconds=1)
QUEUE = "collectors"


class Simulation:
    """Collectors with these schedules, all of them served up to ``start``.

    Arguments:
        schedulers: how many there are.
    """

    def __init__(self, clock: Clock, schedules: Iterable[CronSpec], start: datetime, schedulers: int = 1) -> None:
        self._clock = clock
        self.now = start
        self.runs: list[tuple[str, datetime, datetime | None]] = []
        """Of each: the collector, when it began, and the due time that it served."""
        clock.stand(start)
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
        self._schedulers = [self.new_scheduler() for _ in range(schedulers)]
        # The first run of everybody, which waits for no tick.
        self.look()
        self.runs.clear()

    def new_scheduler(self) -> Scheduler:
        """Return a scheduler that knows nothing yet."""
        return Scheduler(self.collectors)

    def restart(self) -> None:
        """Have all schedulers start anew."""
        self._schedulers = [self.new_scheduler() for _ in self._schedulers]

    def set(self, now: datetime) -> None:
        """Set the clock, while nobody looks."""
        self.now = now
        self._clock.stand(now)

    def look(self) -> datetime:
        """Have each scheduler look once, and the worker do what it was nudged to; return when the first looks again."""
        sleeps = []
        for scheduler in self._schedulers:
            scheduler.schedule()
            seconds = ledger.seconds_to_next_due([each.name for each in self.collectors])
            sleeps.append(LONGEST_SLEEP if seconds is None else timedelta(seconds=seconds) + LATER_THAN_DUE)
        self._work()
        return self.now + min(LONGEST_SLEEP, *sleeps)

    def pass_until(self, end: datetime) -> None:
        """Let time pass, with schedulers that look as often as they do."""
        while self.now < end:
            self.set(min(end, self.look()))
        self.look()

    def close(self) -> None:
        """Forget the collectors."""
        self._consumer.close()
        for each in self.collectors:
            broker.actors.pop(each.name, None)

    def _work(self) -> None:
        for message in self._consumer:
            if message is None:
                return
            actor = broker.actors[message.actor_name]
            assert isinstance(actor, Collector)
            actor(*message.args)
            self._consumer.ack(message)

    def _note(self, run: Run) -> None:
        self.runs.append((run.name, run.started_at, run.scheduled_for))
