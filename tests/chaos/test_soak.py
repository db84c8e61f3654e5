"""Fifty collectors and every fault at once: whatever happens, the tables are those of the sources in the end."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.commits import WITNESS_OF_COMMITS
from tests.chaos.lane import WITNESS
from tests.chaos.soak import Plan, Seen, Soak, soaking
from tests.chaos.soak_laws import judge

COMMITS_CUT = 2 / 3
"""For each kill, in full: so many connections end while a COMMIT is on its way."""


def plans_of(scale):
    """Return a short plan, or one for each seed that was asked for, the kills shared out among them."""
    if not scale.full:
        faults = {"kill": 9, "stop": 2, "term": 1, "flush": 4, "outage": 1, "postgres": 2, "cut": 3}
        return [Plan(scale.seed, seconds=16, steps=30, per_step=25, faults=faults, cuts=0.02)]
    kills = -(-scale.kills // scale.seeds)
    share = {"stop": 6, "term": 10, "flush": 3, "outage": 15, "postgres": 6, "cut": 6}
    faults = {"kill": kills, **{fault: kills // part for fault, part in share.items()}}
    return [
        Plan(seed, seconds=kills * 2.5, steps=300, per_step=90, faults=faults, cuts=0.12)
        for seed in range(scale.seed, scale.seed + scale.seeds)
    ]


def summary(seen: Seen, runs: dict[str, int]) -> str:
    return (
        f"\nsoak of seed {seen.plan.seed}: {seen.plan.versions:,} versions in {seen.plan.steps} steps,"
        f" {seen.took:.0f} s; {dict(seen.done)}; runs {runs}; {len(seen.requests):,} requests;"
        f" {seen.samples:,} samples, at most {seen.longest_queue} messages waiting and {seen.longest_overdue:.1f} s"
        f" overdue, {seen.oldest_due:.1f} s with the runs that were lost on the way; a request waited at most"
        f" {seen.longest_wait:.1f} s for its run, {seen.longest_to_ok:.1f} s for a good one;"
        f" settled in {seen.settled_in:.1f} s"
    )


def test_after_every_kind_of_fault_the_tables_are_those_of_the_sources(home, scale):
    broken = {}
    for plan in plans_of(scale):
        place = Path(home, str(plan.seed))
        place.mkdir()
        with soaking(place, plan) as site:
            site.sql(WITNESS)
            site.sql(WITNESS_OF_COMMITS)
            seen = Soak(site, plan).run()
            broken[plan.seed] = judge(site, seen)
            at_commit = seen.done["cut at COMMIT"]
            if at_commit < plan.faults["kill"] * COMMITS_CUT and scale.full:
                broken[plan.seed].append(f"only {at_commit} connections were cut while a COMMIT was on its way")
            runs = dict(site.sql("SELECT outcome, count(*) FROM collectkit.run GROUP BY outcome ORDER BY outcome"))
        print(summary(seen, runs), *broken[plan.seed][:20], sep="\n  ")

    assert {seed: words for seed, words in broken.items() if words} == {}
