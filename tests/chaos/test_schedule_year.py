"""A simulated year: every tick of hundreds of schedules is served once, whoever is down or starts anew meanwhile."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim

from collectkit import cron
from collectkit.broker import broker
from tests.chaos.clock import simulated
from tests.chaos.simulation import LATER_THAN_DUE, LONGEST_SLEEP, Simulation
from tests.site import Servers

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
    while (tick := schedule.next_tick(tick)) < end:
        yield tick


def changes(tz):
    hours = [START - DAY + HOUR * number for number in range(24 * 367)]
    offsets = [moment.astimezone(ZoneInfo(tz)).utcoffset() for moment in hours]
    return [hours[n] for n in range(1, len(hours)) if offsets[n] != offsets[n - 1]]


def away_from(changed, ticks):
    """Leave out what lies within a day of a change: there each of them has rules of its own."""
    return [tick for tick in ticks if not any(abs(tick - change) < DAY for change in changed)]


def test_over_a_year_the_ticks_are_those_of_cronsim_and_croniter(scale):
    random = Random(scale.seed)
    total = 0

    for spec in some_specs(random, 600 if scale.full else 10):
        tz = random.choice(ZONES)
        zone, changed = ZoneInfo(tz), changes(tz)
        found = away_from(changed, all_ticks(cron(spec, tz), START, END))
        # Vixie's rule for two day fields is an option of croniter; cronsim has it.
        theirs = croniter(spec, START.astimezone(zone), ret_type=datetime, implement_cron_bug=True)
        by_croniter = itertools.takewhile(
            lambda tick: tick < END, (theirs.get_next().astimezone(UTC) for _ in itertools.count())
        )
        by_cronsim = itertools.takewhile(
            lambda tick: tick < END, (tick.astimezone(UTC) for tick in CronSim(spec, START.astimezone(zone)))
        )

        assert found == away_from(changed, by_cronsim), (spec, tz)
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
    """What the design says: each tick is served when it comes, or at the end of the downtime it falls into, once."""
    runs = set()
    for number, schedule in enumerate(schedules):
        for tick in all_ticks(schedule, start, end):
            runs.add((f"year.n{number}", next((up for down, up in downtimes if down <= tick <= up), tick)))
    return runs


@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_every_tick_of_a_year_is_one_run_also_when_all_was_down_for_a_minute_an_hour_and_a_week(
    simulation, scale, schedulers
):
    random = Random(scale.seed * 10 + schedulers)
    specs = some_specs(random, 40 // schedulers if scale.full else 12)
    schedules = [cron(spec, random.choice(ZONES)) for spec in specs]
    # In `make test` the days around both changes of Berlin's clocks are the year.
    seasons = [(START, END)] if scale.full else [(SPRING - DAY, SPRING + DAY), (AUTUMN - DAY, AUTUMN + DAY)]
    for start, end in seasons:
        sizes = [MINUTE, HOUR] + ([7 * DAY] if end - start > 30 * DAY or start > SPRING else [])
        downs = sorted(start + random.random() * (end - start) * 0.6 for _ in sizes)
        downtimes = [(down, down + size) for down, size in zip(downs, sizes, strict=True)]
        while any(up >= down for (_, up), (down, _) in itertools.pairwise(downtimes)):
            downtimes = [(down + n * HOUR, up + n * HOUR) for n, (down, up) in enumerate(downtimes)]
        last = max(end, downtimes[-1][1] + HOUR)
        simulated = simulation(schedules, start, schedulers=schedulers)

        expected = expected_runs(schedules, start, last, downtimes)
        moments = {moment for _, moment in expected}
        # Nobody runs at any other moment, whoever looks.
        moments |= {start + random.random() * (last - start) for _ in range(len(moments) // 5)}
        for moment in sorted(moment for moment in moments if not any(down <= moment < up for down, up in downtimes)):
            simulated.set(moment)
            simulated.look()

        assert set(expected) == {(name, began) for name, began, _ in simulated.runs}
        assert len(expected) == len(simulated.runs)
        served_late = [run for run in simulated.runs if run[1] != run[2]]
        assert {began for _, began, _ in served_late} <= {up for _, up in downtimes}
        assert all(due < began for _, began, due in served_late)


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

    expected = expected_runs(schedules, start, simulated.now)
    assert {(name, due) for name, _, due in simulated.runs} == expected
    assert len(simulated.runs) == len(expected)
    assert max(began - due for _, began, due in simulated.runs) <= LATER_THAN_DUE


@pytest.mark.parametrize("away", [MINUTE, HOUR, 7 * DAY])
def test_what_fell_due_while_all_was_down_is_one_run_at_once_and_then_the_plan_goes_on(simulation, away):
    start = datetime(YEAR, 3, 28, 23, 59, 30, tzinfo=UTC)
    schedules = [cron("* * * * *"), cron("@hourly"), cron("30 2 * * *", "Europe/Berlin"), cron("@weekly")]
    simulated = simulation(schedules, start)

    simulated.set(start + away)
    simulated.restart()
    simulated.pass_until(simulated.now + 3 * MINUTE)

    for number, schedule in enumerate(schedules):
        ticks = list(all_ticks(schedule, start, simulated.now))
        missed = bisect_right(ticks, start + away)
        expected = ([(start + away, ticks[0])] if missed else []) + [(tick, tick) for tick in ticks[missed:]]
        found = [(began, due) for name, began, due in simulated.runs if name == f"year.n{number}"]
        assert [due for _, due in found] == [due for _, due in expected]
        assert all(began - meant <= LATER_THAN_DUE for (began, _), (meant, _) in zip(found, expected, strict=True))
    assert LONGEST_SLEEP > LATER_THAN_DUE
