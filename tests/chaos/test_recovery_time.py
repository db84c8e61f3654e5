"""How long after a kill a collector runs again, at the default lease, while one other worker lives."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from statistics import quantiles

import pytest

from tests.chaos.lane import dice
from tests.chaos.processes import members
from tests.site import Site

VICTIMS, ROUNDS = 35, 3
TTL = 30  # the default
RENEWAL = TTL / 3

TASKS = """
import time
from datetime import timedelta
from collectkit import collector, cron

def sit(run):
    run.store(run.started_at)
    if run.attempt == 1:
        time.sleep(600)

for number in range(%d):
    collector(periodic=cron("0 0 1 1 *"), name=f"sitting.c{number}")(sit)
"""


@pytest.fixture
def site(home, scale):
    if not scale.full:
        pytest.skip("it takes leases of thirty seconds: make chaos")
    with Site(home, {"sitting": TASKS % VICTIMS}, ttl=TTL) as made:
        yield made


def test_a_collector_whose_worker_was_killed_runs_again_within_a_lease_and_a_sweep(site, scale):
    site.until(lambda: site.sql("SELECT 1 WHERE clock_timestamp() > pg_postmaster_start_time() + interval '31 s'"), 60)
    waited = []

    for number in range(ROUNDS):
        killed = kill_all(site, dice(scale.seed, "recovery", number))
        waited += [at - killed[run] for run, at in next_claims(site, killed)]

    all_were_in_time(waited, ROUNDS * VICTIMS, "kills, next claim after it")


def test_a_collector_whose_worker_was_killed_runs_again_within_a_lease_of_the_databases_own_restart(site, scale):
    killed = kill_all(site, dice(scale.seed, "recovery"), and_the_database=True)
    ((restart,),) = site.sql("SELECT pg_postmaster_start_time()")
    waited = [at - restart for _, at in next_claims(site, killed)]

    assert min(waited) >= timedelta(seconds=TTL)
    all_were_in_time(waited, VICTIMS, "kills, then one of the database, next claim after that")


def all_were_in_time(waited, count, what):
    after = sorted(each.total_seconds() for each in waited)
    p50, p90, p99 = (quantiles(after, n=100)[p - 1] for p in (50, 90, 99))
    print(f"\n{len(after)} {what}: p50 {p50:.1f} s, p90 {p90:.1f} s, p99 {p99:.1f} s, at most {after[-1]:.1f} s")
    assert len(after) == count
    assert p99 <= 36
    assert after[-1] <= 45


def kill_all(site, random, *, and_the_database=False):
    """Have each collector run in a worker of its own, kill these at any moment of a renewal, and see the next runs.

    Returns:
        When each run was killed, by its number; by then one more worker, which lives, has run all of them again.
    """
    victims = [site.run("worker", "--threads=1") for _ in range(VICTIMS)]
    site.sql("UPDATE collectkit.collector SET next_due_at = clock_timestamp()")
    site.until(lambda: len(running(site)) == VICTIMS, 120)
    process_of = {pid: process for process in victims for pid in members(process.pid)}
    holders = {run: process_of[pid] for run, pid in running(site).items()}
    assert len({process.pid for process in holders.values()}) == VICTIMS
    survivor = site.run("worker", "--threads=8")

    killed = {}
    began = time.monotonic()
    for run, process in holders.items():
        time.sleep(max(0, began + RENEWAL * len(killed) / VICTIMS + random.random() / 5 - time.monotonic()))
        ((killed[run],),) = site.sql("SELECT clock_timestamp()")
        site.kill(process)
    for process in victims:
        process.wait()
    if and_the_database:
        postmaster = site.postgres.child.process
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait()
        site.postgres.start()
        site.connection.close()
        site.connect()
    site.until(lambda: len(next_claims(site, killed)) == VICTIMS and not running(site), 90)
    site.kill(survivor)
    survivor.wait()
    return killed


def running(site):
    """Return the process of each run that is under way."""
    found = site.sql("SELECT id, worker FROM collectkit.run WHERE outcome = 'RUNNING' ORDER BY id")
    return {run: int(worker.rpartition(":")[2]) for run, worker in found}


def next_claims(site, runs):
    """Return when the collectors of these runs were claimed the next time."""
    return site.sql(
        "SELECT a.id, b.started_at FROM collectkit.run a JOIN collectkit.run b"
        " ON b.collector = a.collector AND b.fence = a.fence + 1 WHERE a.id = ANY (%s)",
        list(runs),
    )
