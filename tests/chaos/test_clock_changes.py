"""The database's clock set back and forth under real workers and a scheduler, which are killed and stopped as well."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from random import Random

import psycopg
import pytest

from tests.chaos.clock import Clock
from tests.chaos.fleet import HOLDERS, SCHEDULER, WORKER, Fleet
from tests.chaos.lane import WITNESS
from tests.chaos.laws import one_committer
from tests.chaos.published import publish
from tests.chaos.truth import differences
from tests.site import Site

COLLECTORS = 6
PAGE = 10
SECONDS = 60
FAULTS = {"set_clock": 40, "kill": 15, "stop": 5}
ON_TIME = 60.0 + 60.0 + 60.0
"""Seconds, the clock set: a heal, the tick that it gives back, and what a loaded machine needs."""

TASKS = f"""
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import peewee
from collectkit import Model, collector, cron

PUBLISHED = Path(os.environ["PUBLISHED"])
# Watermarks are of a time long ago: one that was taken from a clock ahead would be waited for.
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)


class Appended(Model):
    id = peewee.BigAutoField()
    stream = peewee.IntegerField()
    seq = peewee.IntegerField()
    run = peewee.IntegerField()


def declare(number):
    @collector(
        name=f"clocked.{{number}}",
        periodic=cron("* * * * *"),
        data_models=[Appended],
        backoff=(timedelta(seconds=0.5), timedelta(seconds=2)),
    )
    def collect(run):
        while (seq := run.meta_attr.get("seq", 0)) < int(PUBLISHED.read_text()):
            time.sleep(0.1)
            end = min(seq + {PAGE}, int(PUBLISHED.read_text()))
            with run.checkpoint(BEGINNING + timedelta(seconds=end), meta_attr={{"seq": end}}):
                Appended.insert_many([(number, each, run.id) for each in range(seq, end)],
                                     [Appended.stream, Appended.seq, Appended.run]).execute()


for each in range({COLLECTORS}):
    declare(each)
"""


class ClockedSite(Site):
    """A site whose database has a clock that the test sets."""

    clock: Clock

    def connect(self) -> None:
        super().connect()
        self.clock = Clock(psycopg.connect(self.servers.address_of_superuser(self.database), autocommit=True))


class ClockedFleet(Fleet):
    """One more thing that can be done to all of them."""

    site: ClockedSite

    def _set_clock(self) -> bool:
        unit = timedelta(**{self.random.choice(("seconds", "minutes", "hours", "days")): 1})
        self.site.clock.run(ahead=self.random.uniform(-40, 40) * unit)
        return True


@pytest.fixture
def site(home, scale):
    if not scale.full:
        pytest.skip("it takes minutes: make chaos")
    published = home / "published"
    published.write_text("0")
    with ClockedSite(home / "site", {"clocked": TASKS}, environ={"PUBLISHED": str(published)}) as made:
        made.sql(WITNESS)
        yield made
        made.clock.close()


def holders(site):
    """Return who holds a lease, whatever the clock makes of it."""
    return {pid for (pid,) in site.sql(HOLDERS + "c.holder IS NOT NULL")}


def is_at_rest(site):
    return not site.sql(
        "SELECT 1 FROM collectkit.collector WHERE holder IS NOT NULL OR attempt > 0 OR next_due_at <= clock_timestamp()"
    )


def records(count):
    return Counter((stream, seq) for stream in range(COLLECTORS) for seq in range(count))


def rows(site):
    return Counter(site.sql("SELECT stream, seq FROM appended"))


def is_complete(site, fleet, count):
    fleet.tend()
    return not records(count) - rows(site) and is_at_rest(site)


# In full alone: it takes the time that it takes.
def test_whatever_the_clock_does_each_record_is_there_once_and_all_goes_on_when_it_is_right(site, home, scale):
    random = Random(f"clock/{scale.seed}")
    order = [fault for fault, count in FAULTS.items() for _ in range(count)]
    random.shuffle(order)
    fleet = ClockedFleet(site, random, [WORKER, WORKER, SCHEDULER], lambda: holders(site))
    began, struck = time.monotonic(), 0
    try:
        while (passed := time.monotonic() - began) < SECONDS or struck < len(order):
            count = int(passed * 20)
            publish(home / "published", str(count))
            for number in range(COLLECTORS):
                site.ask(f"clocked.{number}")
            if passed >= struck * SECONDS / len(order) and struck < len(order):
                struck += fleet.strike(order[struck])
            fleet.tend()
            time.sleep(0.1)
        fleet.calm()
        # A day ahead: all come to rest, are asked for more, and are killed while they are at it.
        site.clock.run(ahead=timedelta(days=1))
        site.until(lambda: is_complete(site, fleet, count), ON_TIME)
        count += 10 * PAGE
        publish(home / "published", str(count))
        for number in range(COLLECTORS):
            site.ask(f"clocked.{number}")
        site.until(lambda: holders(site))
        fleet.end()
        assert holders(site)
        # An hour ahead from here on: what they had is given back for in a day, and whoever closes now gives back a tick
        # that will be an hour away.
        site.clock.run(ahead=timedelta(hours=1))
        site.until(lambda: is_complete(site, fleet, count), ON_TIME)
        site.clock.run()
        site.until(lambda: is_at_rest(site), ON_TIME)
        publish(home / "published", str(count + PAGE))
        right = time.monotonic()
        site.until(lambda: is_complete(site, fleet, count + PAGE), ON_TIME)
        took = time.monotonic() - right
    finally:
        fleet.end()
    outcomes = Counter(outcome for (outcome,) in site.sql("SELECT outcome FROM collectkit.run"))

    print(f"\n{dict(fleet.done)}; runs: {dict(outcomes)}")
    print(f"{records(count).total():,} records; nobody asked for the last {PAGE}: they were there after {took:.1f} s")
    assert fleet.done["set_clock"] == FAULTS["set_clock"]
    assert differences(records(count + PAGE), rows(site)) == {"lost": [], "doubled": [], "phantom": []}
    assert one_committer(site) == []
