"""The promises under faults: real workers, schedulers, PostgreSQL and Valkey, stopped and killed in mid-run."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.site import Site

TTL = 3

TASKS = """
import os, signal, time
from pathlib import Path
import peewee
from collectkit import Model, collector, cron

HERE = Path(os.environ["FAULTS_DIR"])
YEARLY = cron("0 0 1 1 *")  # no tick of it comes while a test goes on

class Row(Model):
    id = peewee.IntegerField(primary_key=True)
    run = peewee.IntegerField()

def wait_for(name):
    give_up = time.monotonic() + 100
    while not (HERE / name).exists() and time.monotonic() < give_up:
        time.sleep(0.02)

def write(run, row):
    Row.insert(id=row, run=run.id).on_conflict(conflict_target=[Row.id], preserve=[Row.run]).execute()

@collector(periodic=YEARLY, data_models=[Row], name="faults.quick")
def quick(run):
    with run.checkpoint(updated_until_dt=run.started_at):
        write(run, 1)

@collector(periodic=YEARLY, data_models=[Row], name="faults.slow")
def slow(run):
    with run.checkpoint(updated_until_dt=run.started_at, complete=False):
        write(run, 2)
    (HERE / f"slow-{run.id}").touch()
    if not run.meta_attr.get("hurry"):
        wait_for("slow-go")
    with run.checkpoint(updated_until_dt=run.started_at):
        write(run, 3)

@collector(periodic=YEARLY, data_models=[Row], name="faults.inside")
def inside(run):
    with run.checkpoint(updated_until_dt=run.started_at):
        write(run, 4)
        (HERE / f"inside-{os.getpid()}").touch()
        wait_for("inside-go")

@collector(periodic=YEARLY, name="faults.deadly", max_attempts=2)
def deadly(run):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def faults_site(ttl=TTL):
    with (
        tempfile.TemporaryDirectory(prefix="ck-", ignore_cleanup_errors=True) as home,
        Site(Path(home), {"faults": TASKS}, ttl=ttl, environ={"FAULTS_DIR": home}) as made,
    ):
        yield made


@pytest.fixture
def site():
    with faults_site() as made:
        yield made


def test_a_worker_killed_in_mid_run_is_lost_and_its_collector_runs_again(site):
    first = site.run("worker")
    site.due("slow")
    site.until(lambda: site.flag("slow-*"))

    site.kill(first)
    killed = time.monotonic()
    (site.home / "slow-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["LOST", "OK"])

    # One lease, one sweep, and a worker's start, which takes its time on a busy machine; less than a default lease.
    assert time.monotonic() - killed < TTL + TTL / 6 + 20
    assert site.sql("SELECT id FROM public.row ORDER BY id") == [(2,), (3,)]


def test_a_worker_stopped_inside_a_checkpoint_holds_nobody_back_and_commits_nothing_later(site):
    zombie = site.run("worker")
    site.due("inside")
    site.until(lambda: site.flag("inside-*"))

    site.kill(zombie, signal.SIGSTOP)
    (site.home / "inside-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("inside") == ["LOST", "OK"])
    ((winner,),) = site.sql("SELECT run FROM public.row WHERE id = 4")
    site.kill(zombie, signal.SIGCONT)
    time.sleep(2)

    assert site.sql("SELECT run FROM public.row WHERE id = 4") == [(winner,)]
    assert site.outcomes("inside") == ["LOST", "OK"]
    assert zombie.poll() is None


def test_two_schedulers_a_stock_periodiq_and_doubled_nudges_make_one_run_a_tick(site):
    site.run("worker", "--processes=2")
    site.run("scheduler")
    site.run("scheduler")
    site.run("collectkit:setup", "faults.tasks", module="periodiq")
    duplicates = "import collectkit; collectkit.setup(); from collectkit.broker import broker as b;"
    duplicates += "a = b.actors['faults.quick']; b.enqueue_all([a.message() for _ in range(200)])"

    site.due("quick")
    subprocess.run([sys.executable, "-c", duplicates], env=site.environ, cwd=site.home, check=True)
    site.until(lambda: site.outcomes("quick") == ["OK"])
    site.until(lambda: site.sql("SELECT 1 FROM collectkit.collector WHERE next_due_at > clock_timestamp()"))
    time.sleep(3)

    assert site.outcomes("quick") == ["OK"]


def test_a_broker_that_was_away_and_comes_back_empty_costs_no_run(site):
    site.run("worker")
    site.run("scheduler")
    site.due("quick")
    site.until(lambda: site.outcomes("quick") == ["OK"])

    site.valkey.stop()
    site.due("quick")
    time.sleep(6)
    assert site.outcomes("quick") == ["OK"]
    site.valkey.start()

    site.until(lambda: site.outcomes("quick") == ["OK", "OK"])


def test_ten_ticks_that_passed_while_no_worker_ran_make_one_run(site):
    site.sql(
        "UPDATE collectkit.collector SET next_due_at = clock_timestamp() - interval '10 years'"
        " WHERE name = 'faults.quick'"
    )

    site.run("worker")
    site.run("scheduler")
    site.until(lambda: site.outcomes("quick") == ["OK"])
    time.sleep(3)

    assert site.outcomes("quick") == ["OK"]


def test_run_now_during_a_run_makes_exactly_one_more_run_follow(site):
    site.run("worker")
    site.due("slow")
    site.until(lambda: site.flag("slow-*"))

    for _ in range(3):
        assert site.run("run", "slow", "--nudge").wait(30) == 0
    (site.home / "slow-go").touch()
    site.until(lambda: site.outcomes("slow") == ["OK", "OK"])
    time.sleep(3)

    assert site.outcomes("slow") == ["OK", "OK"]


def test_a_run_that_kills_its_process_is_tried_max_attempts_times_and_then_waits_for_its_tick(site):
    site.due("deadly")
    for _ in range(2):
        worker = site.run("worker")
        worker.wait(60)
    site.run("worker")
    site.until(lambda: site.outcomes("deadly") == ["LOST", "LOST"])

    ((due, attempt, error),) = site.sql(
        "SELECT next_due_at > clock_timestamp(), attempt, last_error FROM collectkit.collector"
        " WHERE name = 'faults.deadly'"
    )
    assert due
    assert attempt == 0
    assert "stopped renewing run" in error
    assert "attempt 2 of 2" in error


def test_a_worker_that_is_told_to_stop_hands_its_run_over(site):
    first = site.run("worker")
    site.due("slow")
    site.until(lambda: site.flag("slow-*"))

    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert site.outcomes("slow") == ["HANDED_OVER"]
    (site.home / "slow-go").touch()
    site.run("worker")
    site.until(lambda: site.outcomes("slow") == ["HANDED_OVER", "OK"])

    assert site.sql("SELECT attempt FROM collectkit.run ORDER BY id") == [(1,), (1,)]
