"""Fifty collectors and every fault at once: whatever happens, the tables are those of the sources in the end."""

from __future__ import annotations

from tests.chaos.lane import WITNESS
from tests.chaos.soak import Plan, Seen, Soak, soaking
from tests.chaos.soak_laws import judge


def plan_of(scale):
    if not scale.full:
        faults = {"kill": 12, "stop": 3, "term": 2, "flush": 6, "outage": 2, "postgres": 2, "cut": 4}
        return Plan(scale.seed, seconds=22, steps=40, per_step=25, faults=faults, cuts=0.02)
    kills = scale.kills
    share = {"stop": 6, "term": 10, "flush": 3, "outage": 15, "postgres": 6, "cut": 6}
    faults = {"kill": kills, **{fault: kills // part for fault, part in share.items()}}
    return Plan(scale.seed, seconds=kills * 3, steps=300, per_step=90, faults=faults, cuts=0.06)


def summary(seen: Seen, runs: dict[str, int]) -> str:
    return (
        f"\nsoak of seed {seen.plan.seed}: {seen.plan.versions:,} versions in {seen.plan.steps} steps,"
        f" {seen.took:.0f} s; {dict(seen.done)}; runs {runs}; {len(seen.requests):,} requests;"
        f" {seen.samples:,} samples, at most {seen.longest_queue} messages waiting and {seen.longest_overdue:.1f} s"
        f" overdue; settled in {seen.settled_in:.1f} s"
    )


def test_after_every_kind_of_fault_the_tables_are_those_of_the_sources(home, scale):
    plan = plan_of(scale)

    with soaking(home, plan) as site:
        site.sql(WITNESS)
        seen = Soak(site, plan).run()
        broken = judge(site, seen)
        runs = dict(site.sql("SELECT outcome, count(*) FROM collectkit.run GROUP BY outcome ORDER BY outcome"))
    print(summary(seen, runs))

    assert broken == []
    assert seen.longest_queue <= 1000
    assert seen.longest_overdue < 60
