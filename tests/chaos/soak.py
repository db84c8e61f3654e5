"""The soak: fifty collectors on several processes, for as long as it takes to kill so many of these."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import psycopg
import redis

from tests.chaos.fleet import HOLDERS, SCHEDULER, WORKER, Fleet
from tests.chaos.published import publish
from tests.chaos.soaked.plan import GROUPS, SOURCES
from tests.chaos.soaked.source import generate
from tests.site import Site

QUEUE = "collectkit:collectors"
TTL = 3.0
SETTLING = 120.0
SAMPLE = 0.5
_TAIL = 0.85
"""The part of the time in which faults happen; in what is left the sources still move."""


T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much there is to be of everything; faults come in an order that the seed decides, evenly over the time.

    Attributes:
        seconds: of faults.
        steps: how often the sources move on.
        per_step: the versions that each source publishes in a step.
        cuts: the chance that a COMMIT's connection is cut.
    """

    seed: int
    seconds: float
    steps: int
    per_step: int
    faults: dict[str, int]
    cuts: float
    workers: int = 2
    schedulers: int = 3

    @property
    def versions(self) -> int:
        """The versions of records in all sources."""
        return len(SOURCES) * self.steps * self.per_step


@dataclass
class Seen:
    """What came of it.

    Attributes:
        longest_overdue: seconds that something startable was overdue, from the end of its last run if that was later.
        oldest_due: seconds since a due time that was still to be served, those of runs that were lost on the way
            included. No law: how many of a long run's attempts the soak kills depends on how fast the machine is.
    """

    plan: Plan
    done: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, datetime]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    samples: int = 0
    queue_samples: int = 0
    longest_queue: int = 0
    longest_overdue: float = 0.0
    oldest_due: float = 0.0
    longest_wait: float = 0.0
    longest_to_ok: float = 0.0
    settled_in: float = 0.0
    took: float = 0.0


class Soak:
    """One of it: a site, a fleet of processes, and the driver of faults, all in one thread.

    Arguments:
        site: with ``tests.chaos.soaked`` as its collectors.
    """

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site = site
        self.plan = plan
        self.seen = Seen(plan)
        self.random = Random(f"soak/{plan.seed}")
        commands = [WORKER] * plan.workers + [SCHEDULER] * plan.schedulers
        self.fleet = Fleet(site, self.random, commands, self._holders)
        self.step = -1
        self._until: dict[str, datetime] = {}
        self._next_sample = 0.0
        self._redis = redis.Redis.from_url(site.environ["COLLECTKIT_BROKER_URL"], socket_timeout=1)

    def run(self) -> Seen:
        """Do all of it, and return what was seen; what the tables hold is looked at afterwards."""
        began = time.monotonic()
        faults = [fault for fault, count in self.plan.faults.items() for _ in range(count)]
        self.random.shuffle(faults)
        pace = self.plan.seconds * _TAIL / max(1, len(faults))
        latest = self.plan.seconds + SETTLING
        with ExitStack() as stack:
            stack.callback(self.fleet.end)
            while (passed := time.monotonic() - began) < self.plan.seconds or (faults and passed < latest):
                self._publish(min(self.plan.steps - 2, int(passed / self.plan.seconds * self.plan.steps)))
                if faults and passed >= (sum(self.plan.faults.values()) - len(faults)) * pace:
                    fault = faults.pop()
                    if not self.fleet.strike(fault):
                        faults.insert(self.random.randint(0, len(faults)), fault)
                self._ask()
                self._look()
                self.fleet.tend()
                time.sleep(0.05)
            if faults:
                self.seen.broken.append(f"faults that found nothing to strike: {dict(Counter(faults))}")
            self._settle()
            cuts = self.site.home / "cuts"
            self.seen.done = self.fleet.done
            self.seen.done.update(cuts.read_text().splitlines() if cuts.exists() else ())
        self.seen.took = time.monotonic() - began
        return self.seen

    def _publish(self, step: int) -> None:
        if step > self.step:
            self.step = step
            publish(self.site.home / "step", str(step))

    def _ask(self, names: list[str] | None = None) -> None:
        """Have some collectors run now, as an operator does, and write down that it was asked for."""
        if names is None and self.random.random() > 0.3:
            return
        for name in names or [self.random.choice(SOURCES)]:
            asked = self._answer(partial(self.site.ask, f"soak.{name}"), None)
            if asked:
                self.seen.requests.append((f"soak.{name}", asked))
            elif names:
                raise RuntimeError(f"the database does not answer a request for {name}")

    def _look(self) -> None:
        """Take a sample: watermarks only rise, the queue stays short, and nothing waits for long."""
        if time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + SAMPLE
        rows = self._sql(
            "SELECT c.name, c.updated_until_dt,"
            " CASE WHEN isfinite(c.next_due_at) THEN extract(epoch FROM clock_timestamp() - c.next_due_at)::float8 END,"
            " extract(epoch FROM clock_timestamp() - r.finished_at)::float8,"
            " c.holder IS NULL AND NOT EXISTS (SELECT FROM collectkit.collector d WHERE d.name = ANY (c.depends_on)"
            " AND d.data_state <> 'COMPLETE')"
            " FROM collectkit.collector c LEFT JOIN collectkit.run r ON r.collector = c.name AND r.fence = c.fence"
        )
        for name, until, overdue, idle, startable in rows:
            before = self._until.get(name)
            if before is not None and (until is None or until < before):
                self.seen.broken.append(f"{name}: the watermark went back from {before} to {until}")
            if until is not None:
                self._until[name] = until
            if startable and overdue is not None:
                self.seen.oldest_due = max(self.seen.oldest_due, overdue)
                waited = overdue if idle is None else min(overdue, idle)
                self.seen.longest_overdue = max(self.seen.longest_overdue, waited)
        self.seen.samples += bool(rows)
        with suppress(redis.RedisError):
            self.seen.longest_queue = max(self.seen.longest_queue, int(self._redis.llen(QUEUE)))
            self.seen.queue_samples += 1

    def _settle(self) -> None:
        """No more faults: publish the last step, ask for everything once, and wait until nothing is left to do."""
        publish(self.site.home / "calm", "")
        self.fleet.calm()
        self._publish(self.plan.steps - 1)
        began = time.monotonic()
        self.site.until(lambda: self._sql("SELECT 1"))
        self._ask(SOURCES)
        while not self._is_settled():
            self.fleet.tend()
            self._look()
            if time.monotonic() - began > SETTLING:
                self.seen.broken.append(f"not settled within {SETTLING:.0f} s: {self._unsettled()}")
                break
            time.sleep(0.1)
        self.seen.settled_in = time.monotonic() - began

    def _is_settled(self) -> bool:
        return not self._unsettled()

    def _unsettled(self) -> list[Any]:
        asked = dict(self.seen.requests[-len(SOURCES) :])
        rows = self._sql(
            "SELECT c.name, c.holder IS NOT NULL OR c.attempt > 0 OR c.next_due_at <= clock_timestamp(),"
            " (SELECT max(r.started_at) FROM collectkit.run r WHERE r.collector = c.name AND r.outcome = 'OK')"
            " FROM collectkit.collector c"
        )
        # A tick of the minute may be due again: what matters is that the run which was asked for has been.
        return [
            (name, busy, last)
            for name, busy, last in rows
            if (last is None or last < asked[name] if name in asked else busy)
        ] or ([] if rows else ["the database does not answer"])

    def _holders(self) -> set[int]:
        """Return the processes that hold a lease which has not lapsed."""
        return {pid for (pid,) in self._sql(HOLDERS + "c.lease_until > clock_timestamp()")}

    def _sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database; nothing comes back while it is away."""
        return self._answer(partial(self.site.sql, query, *values), [])

    def _answer(self, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except psycopg.OperationalError:
            self.site.connection.close()
            with suppress(psycopg.OperationalError):
                self.site.connect()
            return otherwise


def soaking(home: Path, plan: Plan) -> Site:
    """Write the sources, and return a site whose collectors read them."""
    for name in SOURCES:
        generate(home / name, f"{plan.seed}/{name}", plan.steps, plan.per_step)
    publish(home / "step", "0")
    return Site(
        home,
        {},
        ttl=TTL,
        groups=GROUPS,
        environ={
            "COLLECTKIT_COLLECTORS": "tests.chaos.soaked",
            "COLLECTKIT_CRASHPOINTS": "tests.chaos.soaked.cuts:reached",
            "SOAK_DIR": str(home),
            "SOAK_PER_STEP": str(plan.per_step),
            "SOAK_CUTS": str(plan.cuts),
            "SOAK_SEED": str(plan.seed),
        },
    )
