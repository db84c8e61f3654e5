"""A real scheduler, killed and started anew at any second around a tick: each tick has one run, none too many.

The worker's own sweep nudges nobody here, or it would serve each tick within five seconds without any scheduler.
"""

from __future__ import annotations

import time
from datetime import timedelta
from random import Random

import pytest

from tests.chaos.processes import catches_sigterm
from tests.site import Site

COUNT = 12
RENUDGED = timedelta(seconds=10)
LATEST = RENUDGED + timedelta(seconds=5 + 15)
"""A lost nudge is sent again after ten seconds, by whichever scheduler lives then: it has to start, which takes a
second or a few, and may be killed before it has looked. A loaded machine needs the rest."""
TASKS = f"""
from collectkit import collector, cron

for number in range({COUNT}):
    @collector(periodic=cron("0 0 1 1 *"), name=f"restart.yearly{{number}}")
    def yearly(run):
        run.store(run.started_at)

@collector(periodic=cron("* * * * *"), name="restart.minutely")
def minutely(run):
    run.store(run.started_at)
"""


@pytest.fixture
def site(home):
    with Site(home, {"restart": TASKS}, ttl=30) as made:
        made.run("worker", COLLECTKIT_CRASHPOINTS="tests.chaos.unswept:reached")
        yield made


@pytest.fixture
def in_full(scale):
    if not scale.full:
        pytest.skip("it takes minutes: make chaos")


def killed_and_started_anew_until(site, random, over, seconds):
    """Let one scheduler after another live for a random time, until ``over()``; none of them stays."""

    def over_after_one_more():
        scheduler = site.run("scheduler")
        site.until(lambda: catches_sigterm(scheduler.pid))
        time.sleep(random.uniform(0, 1.5))
        site.kill(scheduler)
        scheduler.wait()
        return over()

    site.until(over_after_one_more, seconds)


def passed(site, moment):
    return site.sql("SELECT clock_timestamp() > %s", moment)[0][0]


def runs(site, names):
    return site.sql(
        "SELECT collector, scheduled_for, outcome FROM collectkit.run WHERE collector LIKE %s ORDER BY 1, 2", names
    )


def all_were_in_time(site, names):
    """Look at how late each run began; where it was ten seconds or more, a nudge had been marked and was lost."""
    late = [
        began
        for (began,) in site.sql(
            "SELECT started_at - scheduled_for FROM collectkit.run WHERE collector LIKE %s ORDER BY 1", names
        )
    ]
    again = sum(each >= RENUDGED for each in late)
    print(f"\n{len(late)} ticks, {again} needed a second nudge; at most {late[-1].total_seconds():.1f} s late")
    assert late[-1] < LATEST


# Both in full alone: ticks are waited for in real time.
def test_a_tick_around_which_the_scheduler_is_killed_and_started_anew_has_one_run(in_full, site, scale):
    random = Random(scale.seed)
    ticks = []

    def all_ran():
        return len(runs(site, "restart.yearly%")) >= len(ticks)

    for _ in range(20):
        for number in range(COUNT):
            ticks += site.sql(
                "UPDATE collectkit.collector SET next_due_at = clock_timestamp() + %s * interval '1 s'"
                " WHERE name = %s RETURNING name, next_due_at",
                random.uniform(1, 6),
                f"restart.yearly{number}",
            )
        killed_and_started_anew_until(site, random, all_ran, 120)

    site.until(lambda: "RUNNING" not in [outcome for *_, outcome in runs(site, "restart.yearly%")])
    assert runs(site, "restart.yearly%") == sorted((name, due, "OK") for name, due in ticks)
    all_were_in_time(site, "restart.yearly%")


def test_each_minute_in_which_the_scheduler_is_killed_and_started_anew_has_one_run(in_full, site, scale):
    random = Random(scale.seed)
    ((end,),) = site.sql("SELECT date_trunc('minute', clock_timestamp()) + interval '2 min 30 s'")
    ((first,),) = site.sql(
        "UPDATE collectkit.collector SET next_due_at = date_trunc('minute', clock_timestamp()) + interval '1 min'"
        " WHERE name = 'restart.minutely' RETURNING next_due_at"
    )

    killed_and_started_anew_until(site, random, lambda: passed(site, end), 300)
    minutes = [("restart.minutely", first + timedelta(minutes=number), "OK") for number in range(2)]

    site.until(lambda: "RUNNING" not in site.outcomes("minutely"))
    assert [run for run in runs(site, "restart.minutely") if run[1] < end] == minutes
    all_were_in_time(site, "restart.minutely")
