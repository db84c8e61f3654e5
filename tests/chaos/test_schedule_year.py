"""A simulated year: every tick of hundreds of schedules is served once, whoever is down or starts anew meanwhile.

Schedulers wake when they want to. Which ticks there are is told by others: by cronsim, and where clocks change by the
rules, read minute by minute.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim

from collectkit import cron
from collectkit.broker import broker
from tests.chaos.clock import simulated
from tests.chaos.simulation import LATER_THAN_DUE, LONGEST_SLEEP, Simulation
from tests.site import Servers
from tests.unit.test_schedule import literally

YEAR = 2026
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago"]
START, END = datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC)
SPRING, AUTUMN = datetime(YEAR, 3, 29, 1, tzinfo=UTC), datetime(YEAR, 10, 25, 1, tzinfo=UTC)
"""When the clocks of Berlin change."""
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def some_specs(random, count):
    """Schedules of all shapes that fire at most about five times an hour."""

    def field(first, last, star):
        kind = random.choice(("one", "one", "list", "range", "star"))
        if kind == "star":
            return star
        if kind == "list":
            return ",".join(map(str, sorted(random.sample(range(first, last + 1), random.randint(2, 3)))))
        low, high = sorted(random.sample(range(first, last + 1), 2))
        return str(low) if kind == "one" else f"{low}-{high}/{random.randint(2, min(9, last - first + 1))}"

    minute = [f"{random.randint(0, 59)}", "*/15", "7,37", "0", "*/20"]
    for _ in range(count):
        yield (
            f"{random.choice(minute)} {field(0, 23, random.choice(('*', '*/3', '*/5')))}"
            f" {random.choice(('*', '*', '*', field(1, 28, '*')))} {random.choice(('*', '*', field(1, 12, '*')))}"
            f" {random.choice(('*', '*', '*', field(0, 6, '*')))}"
        )


def all_ticks(schedule, start, end):
    tick = start
    while (tick := schedule.next_tick(tick)) <= end:
        yield tick


@cache
def changes(tz):
    hours = [START - DAY + HOUR * number for number in range(24 * 367)]
    offsets = [moment.astimezone(ZoneInfo(tz)).utcoffset() for moment in hours]
    return [hours[n] for n in range(1, len(hours)) if offsets[n] != offsets[n - 1]]


def by_cronsim(spec, tz, start, end):
    ticks = (tick.astimezone(UTC) for tick in CronSim(spec, start.astimezone(ZoneInfo(tz))))
    return itertools.takewhile(lambda tick: tick <= end, ticks)


def away_from(changed, ticks):
    """Leave out what lies within a day of a change: there each of them has rules of its own."""
    return [tick for tick in ticks if not any(abs(tick - change) < DAY for change in changed)]


def near(change, spec, tz, start, end):
    tick, until = max(start, change - DAY), min(end, change + DAY - MINUTE)
    while tick := literally(spec, tz, tick, until):
        yield tick


def by_others(spec, tz, start, end):
    """Yield every tick after ``start`` until ``end``, in no order."""
    yield from away_from(changes(tz), by_cronsim(spec, tz, start, end))
    for change in changes(tz):
        yield from near(change, spec, tz, start, end)


def test_over_a_year_the_ticks_are_those_of_cronsim_and_croniter(scale):
    random = Random(scale.seed)
    total = 0

    for spec in some_specs(random, 600 if scale.full else 10):
        tz = random.choice(ZONES)
        changed = changes(tz)
        found = away_from(changed, all_ticks(cron(spec, tz), START, END))
        # Vixie's rule for two day fields is an option of croniter; cronsim has it.
        theirs = croniter(spec, START.astimezone(ZoneInfo(tz)), ret_type=datetime, implement_cron_bug=True)
        by_croniter = itertools.takewhile(
            lambda tick: tick <= END, (theirs.get_next().astimezone(UTC) for _ in itertools.count())
        )

        assert found == away_from(changed, by_cronsim(spec, tz, START, END)), (spec, tz)
        assert found == away_from(changed, by_croniter), (spec, tz)
        total += len(found)
    assert total > 2_000


@pytest.fixture(scope="module")
def clock(module_home):
    with Servers(module_home) as servers, simulated(servers, "year") as made:
        broker.connect(servers.valkey.url)
        yield made
        broker.client.close()


@pytest.fixture
def simulation(clock):
    made = []

    def make(*arguments, **options):
        made.append(Simulation(clock, *arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def expected_runs(schedules, start, end, downtimes=()):
    """What the design says of each tick: it is served when it comes, or at the end of the downtime it falls into.

    Returns when, by collector and due time; of the ticks that are served at once that is the first one's.
    """
    runs = {}
    for number, schedule in enumerate(schedules):
        due = {}
        for tick in sorted(by_others(schedule.spec, schedule.tz, start, end)):
            due.setdefault(next((up for down, up in downtimes if down <= tick <= up), tick), tick)
        runs |= {(f"year.n{number}", tick): moment for moment, tick in due.items()}
    return runs


def assert_each_tick_was_one_run(simulated, expected):
    began = {(name, due): began for name, began, due in simulated.runs}
    assert set(began) == set(expected)
    assert len(simulated.runs) == len(expected)
    assert all(timedelta(0) <= began[run] - moment <= LATER_THAN_DUE for run, moment in expected.items())
    # Of all that look at the same moment, one nudges.
    assert simulated.nudges == len(expected)


@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_every_tick_of_a_year_is_one_run_also_when_all_was_down_for_a_minute_an_hour_and_a_week(
    simulation, scale, schedulers
):
    random = Random(scale.seed * 10 + schedulers)
    specs = some_specs(random, 20 // schedulers if scale.full else 8)
    # A time of day that clocks skip and show twice, and one that follows them as they go.
    schedules = [cron("30 2 * * *", "Europe/Berlin"), cron("*/30 2 * * *", "Europe/Berlin")]
    schedules += [cron(spec, random.choice(ZONES)) for spec in specs]
    # In `make test` the days around both changes of Berlin's clocks are the year, and a day after which all is down.
    days = [(SPRING - DAY, SPRING + DAY), (AUTUMN - DAY, AUTUMN + DAY), (AUTUMN + DAY, AUTUMN + 2 * DAY)]
    for start, end in [(START, END)] if scale.full else days:
        sizes = [MINUTE, HOUR, *([7 * DAY] if end > AUTUMN + DAY else [])]
        downs = sorted(start + random.random() * (end - start) * 0.6 for _ in sizes)
        downtimes = [(down, down + size) for down, size in zip(downs, sizes, strict=True)]
        while any(up >= down for (_, up), (down, _) in itertools.pairwise(downtimes)):
            downtimes = [(down + n * HOUR, up + n * HOUR) for n, (down, up) in enumerate(downtimes)]
        last = max(end, downtimes[-1][1] + HOUR)
        simulated = simulation(schedules, start, schedulers=schedulers, longest_sleep=END - START)

        for down, up in downtimes:
            simulated.pass_until(down)
            simulated.restart()
            simulated.set(up)
        simulated.pass_until(last)

        assert_each_tick_was_one_run(simulated, expected_runs(schedules, start, last, downtimes))


@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_schedulers_that_start_anew_at_every_second_of_a_minute_neither_miss_a_tick_nor_serve_it_twice(
    simulation, scale, schedulers
):
    start = datetime(YEAR, 7, 1, 12, 0, tzinfo=UTC)
    schedules = [cron("* * * * *"), cron("*/5 * * * *"), cron("30 * * * *", "Asia/Kolkata")]
    simulated = simulation(schedules, start, schedulers=schedulers)

    for second in range(0, 60, 1 if scale.full else 4):
        minute = simulated.now.replace(second=0, microsecond=0) + MINUTE
        simulated.pass_until(minute + timedelta(seconds=second))
        simulated.restart()
        simulated.pass_until(minute + MINUTE - timedelta(seconds=1))

    assert_each_tick_was_one_run(simulated, expected_runs(schedules, start, simulated.now))


@pytest.mark.parametrize("away", [MINUTE, HOUR, 7 * DAY])
def test_what_fell_due_while_all_was_down_is_one_run_at_once_and_then_the_plan_goes_on(simulation, away):
    start = datetime(YEAR, 3, 28, 23, 59, 30, tzinfo=UTC)
    schedules = [cron("* * * * *"), cron("0 * * * *"), cron("30 2 * * *", "Europe/Berlin"), cron("0 0 * * 0")]
    simulated = simulation(schedules, start)

    simulated.set(start + away)
    simulated.restart()
    simulated.pass_until(simulated.now + 3 * MINUTE)

    expected = expected_runs(schedules, start, simulated.now, [(start, start + away)])
    assert_each_tick_was_one_run(simulated, expected)


@pytest.mark.parametrize("off", [HOUR, -HOUR, 400 * DAY])
def test_when_the_clock_is_set_off_and_right_again_no_tick_is_lost_from_a_minute_later(simulation, monkeypatch, off):
    schedules = [cron("* * * * *"), cron("*/20 * * * *"), cron("0 * * * *", "Asia/Kolkata")]
    simulated = simulation(schedules, datetime(YEAR, 7, 1, 12, 0, 30, tzinfo=UTC), schedulers=2)
    # The clock of their host shows how time passes here, so that they heal each minute.
    monkeypatch.setattr("collectkit.scheduler.time", SimpleNamespace(monotonic=simulated.monotonic))
    simulated.restart()

    for setting in (off, -off):
        simulated.set(simulated.now + setting)
        simulated.pass_until(simulated.now + MINUTE + LONGEST_SLEEP)
        simulated.forget()
        simulated.longest_sleep, healed = HOUR, simulated.now
        simulated.pass_until(healed + 20 * MINUTE)
        simulated.longest_sleep = LONGEST_SLEEP

        assert_each_tick_was_one_run(simulated, expected_runs(schedules, healed, simulated.now))
