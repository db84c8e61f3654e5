"""Faults beyond a stopped or killed worker: half of one killed, a sleeper that wakes, a database that restarts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.test_recovery import TTL, faults_site

STEPS = 250
STEP_TASKS = f"""
import time
import peewee
from collectkit import Model, collector, cron

class Step(Model):
    id = peewee.IntegerField(primary_key=True)
    run = peewee.IntegerField()

@collector(periodic=cron("0 0 1 1 *"), data_models=[Step], name="faults.steps", max_attempts=10)
def steps(run):
    for number in range(run.meta_attr.get("step", 0) + 1, {STEPS + 1}):
        with run.checkpoint(run.started_at, complete=number == {STEPS}, meta_attr={{"step": number}}):
            Step.insert(id=number, run=run.id).execute()
        time.sleep(0.005)
"""


@pytest.fixture
def site(request):
    with faults_site(getattr(request, "param", TTL)) as made:
        yield made


def start_slow(site):
    """Start a worker whose run of ``slow`` has written one row of two; return it and the process of the run."""
    worker = site.run("worker")
    site.due("slow")
    site.until(lambda: site.flag("slow-*"))
    ((name,),) = site.sql("SELECT worker FROM collectkit.run WHERE outcome = 'RUNNING'")
    return worker, int(name.rpartition(":")[2])


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def restart_database(site, pause):
    site.connection.close()
    site.postgres.stop()
    time.sleep(pause)  # the outage itself
    site.postgres.start()
    site.connect()


def test_a_child_killed_alone_is_lost_and_its_collector_runs_again(site):
    main, child = start_slow(site)
    assert child != main.pid

    os.kill(child, signal.SIGKILL)
    killed = time.monotonic()
    (site.home / "slow-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["LOST", "OK"])

    assert time.monotonic() - killed < TTL + TTL / 6 + 20
    assert site.sql("SELECT count(DISTINCT run) FROM public.row") == [(1,)]


def test_a_child_whose_main_process_is_killed_hands_its_run_over_and_ends(site):
    main, child = start_slow(site)

    os.kill(main.pid, signal.SIGKILL)
    try:
        site.until(lambda: not is_alive(child))
    finally:
        # The site ends only groups whose leader lives.
        if is_alive(child):
            os.kill(child, signal.SIGKILL)
    assert site.outcomes("slow") == ["HANDED_OVER"]
    (site.home / "slow-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["HANDED_OVER", "OK"])

    assert site.sql("SELECT attempt FROM collectkit.run ORDER BY id") == [(1,), (1,)]


def test_a_worker_that_sleeps_between_checkpoints_commits_nothing_when_it_wakes(site):
    sleeper, _ = start_slow(site)
    ((first,),) = site.sql("SELECT id FROM collectkit.run")

    site.kill(sleeper, signal.SIGSTOP)
    (site.home / "slow-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["LOST", "OK"])
    left = site.sql("SELECT id, run, xmin::text FROM public.row ORDER BY id")
    site.kill(sleeper, signal.SIGCONT)
    site.until(lambda: f"run {first} LOST in" in site.log())

    assert site.sql("SELECT id, run, xmin::text FROM public.row ORDER BY id") == left
    assert site.outcomes("slow") == ["LOST", "OK"]
    assert {run for _, run, _ in left} == {first + 1}


# A lease is what its holder has to come back in: longer here, for it may be on a busy machine.
@pytest.mark.parametrize("site", [4], indirect=True)
def test_a_run_outlives_a_restart_of_the_database_that_is_longer_than_its_lease(site):
    start_slow(site)
    site.run("worker")

    restart_database(site, 4)
    # So long that a lease which nobody renewed would have been closed.
    old = "SELECT clock_timestamp() > pg_postmaster_start_time() + interval '5.5 s'"
    site.until(lambda: site.sql(old) == [(True,)])
    assert site.outcomes("slow") == ["RUNNING"]
    (site.home / "slow-go").touch()
    site.until(lambda: site.outcomes("slow") != ["RUNNING"])

    assert site.outcomes("slow") == ["OK"]
    assert site.sql("SELECT id FROM public.row ORDER BY id") == [(2,), (3,)]


def test_a_run_that_died_with_the_database_runs_again_one_lease_after_its_restart(site):
    worker, _ = start_slow(site)
    (site.home / "slow-go").touch()

    site.kill(worker)
    restart_database(site, 0)
    back = time.monotonic()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["LOST", "OK"])

    assert time.monotonic() - back < 2 * TTL + TTL / 6 + 20


def test_rows_and_cursor_agree_however_often_a_worker_is_killed(site):
    package = site.home / "faults" / "steps"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(STEP_TASKS)
    assert site.run("migrate").wait(60) == 0

    def at():
        return site.sql(
            "SELECT (SELECT count(*) FROM public.step), coalesce((meta_attr->>'step')::int, 0)"
            " FROM collectkit.collector WHERE name = 'faults.steps'"
        )[0]

    for target in (60, 130):
        worker = site.run("worker")
        site.until(lambda target=target: at()[0] >= target)
        site.kill(worker)
        worker.wait()
        rows, cursor = at()
        assert rows == cursor < STEPS
    site.run("worker")
    site.until(lambda: site.outcomes("steps")[-1] == "OK")

    assert site.outcomes("steps") == ["LOST", "LOST", "OK"]
    assert at() == (STEPS, STEPS)
    assert site.sql("SELECT count(DISTINCT run) FROM public.step") == [(3,)]


def test_a_run_that_is_handed_over_starts_at_once_on_a_worker_that_lives(site):
    first, _ = start_slow(site)
    before = site.log().count("ready for action")
    site.run("worker")
    site.until(lambda: site.log().count("ready for action") > before)

    (site.home / "slow-go").unlink(missing_ok=True)
    first.send_signal(signal.SIGTERM)
    site.until(lambda: site.outcomes("slow") == ["HANDED_OVER", "RUNNING"])

    ((pause,),) = site.sql(
        "SELECT extract(epoch FROM max(started_at) - max(finished_at))::float8 FROM collectkit.run"
        " WHERE collector = 'faults.slow'"
    )
    # The next sweep, which comes six times in a lease, and a broker's round trip; no lease has to lapse.
    assert 0 <= pause < TTL


def test_a_child_whose_main_process_is_killed_while_it_boots_ends_too(site):
    main = site.run("worker")
    children = Path(f"/proc/{main.pid}/task/{main.pid}/children")
    site.until(lambda: children.read_text().split())
    booting = [int(pid) for pid in children.read_text().split()]

    os.kill(main.pid, signal.SIGKILL)
    try:
        site.until(lambda: not any(is_alive(pid) for pid in booting))
    finally:
        for pid in filter(is_alive, booting):
            os.kill(pid, signal.SIGKILL)
