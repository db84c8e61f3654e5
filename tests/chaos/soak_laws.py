"""What must hold after a soak: tables equal to the sources byte for byte, and the laws of the ledger's history."""

from __future__ import annotations

from collections import Counter

from tests.chaos.commits import commits, every_commit_was_its_holders
from tests.chaos.dues import Standing, every_request_was_served, everything_ran_in_the_end, no_due_time_was_lost
from tests.chaos.laws import history_follows_the_rules, one_committer, past_runs, rows_are_for_their_groups
from tests.chaos.soak import SAMPLE, Seen
from tests.chaos.soaked.plan import DERIVED, GROUPS, KINDS, PARTS, PROTECTED, SOURCES
from tests.chaos.soaked.source import Source, tally
from tests.chaos.truth import differences
from tests.site import Site

Rows = list[tuple[int, ...]]

CAUGHT_UP = 60.0
"""Seconds: a run that is lost costs a lease, a lost nudge ten seconds, and several of them may come together."""

LONGEST_QUEUE = 1000
SAMPLED = 0.25
"""The part of all samples that must have had an answer: servers are away now and then."""

_QUERIES = {
    "append": "SELECT seq, value FROM appended WHERE stream = {number} ORDER BY seq, value",
    "window": "SELECT id, value FROM event WHERE stream = {number} ORDER BY id",
    "snapshot": "SELECT id, value FROM snapshot{number} ORDER BY id",
    "tally": "SELECT part, rows, total FROM tally{number} ORDER BY part",
    "grand": "SELECT part, rows, total FROM grand{number} ORDER BY part",
}


def judge(site: Site, seen: Seen) -> list[str]:
    """Return every law that was broken, in words."""
    runs, standings = past_runs(site), _standings(site)
    service = every_request_was_served(seen.requests, runs)
    seen.longest_wait, seen.longest_to_ok = service.longest_wait, service.longest_to_ok
    return [
        *seen.broken,
        *tables_are_the_sources(site, seen),
        *rows_are_for_their_groups(site, [f"snapshot{number}" for number in PROTECTED], GROUPS),
        *one_committer(site),
        *every_commit_was_its_holders(commits(site)),
        *history_follows_the_rules(site),
        *service.broken,
        *no_due_time_was_lost(standings, runs),
        *everything_ran_in_the_end(standings, runs, seen.requests[-len(SOURCES)][1]),
        *all_was_in_time(seen),
    ]


def tables_are_the_sources(site: Site, seen: Seen) -> list[str]:
    """Compare each table with what its source says, computed from that alone."""
    broken = []
    for name in [*SOURCES, *DERIVED]:
        kind, _, number = name.partition("_")
        expected = oracle(site, seen, kind, int(number))
        with site.connection.cursor().copy(f"COPY ({_QUERIES[kind].format(number=number)}) TO STDOUT") as copy:
            found = b"".join(map(bytes, copy))
        broken += [f"{name}: {words}" for words in compared(expected, found)]
    return broken


def compared(expected: Rows, found: bytes) -> list[str]:
    """Tell what of a table, as COPY writes it, is not as expected, byte for byte."""
    if found == b"".join(b"%s\n" % b"\t".join(b"%d" % value for value in row) for row in expected):
        return []
    rows = [tuple(map(int, line.split(b"\t"))) for line in found.splitlines()]
    return [
        f"{len(some)} rows {what}, first {some[0]}"
        for what, some in differences(Counter(expected), Counter(rows)).items()
        if some
    ] or ["the rows are those of the source, but not the bytes"]


def oracle(site: Site, seen: Seen, kind: str, number: int) -> Rows:
    """Return the rows that the table must hold at the last step."""
    last, per_step = seen.plan.steps - 1, seen.plan.per_step
    of = kind if kind in KINDS else "snapshot"
    source = Source(site.home / f"{of}_{number}", per_step)
    if kind == "append":
        return [(v.seq, v.value) for v in source.after(0, last, seen.plan.versions)]
    rows: Rows = sorted((v.id, v.value) for v in source.snapshot(last))
    if kind in {"tally", "grand"}:
        rows = list(tally(rows, PARTS))  # type: ignore[arg-type]
    if kind == "grand":
        rows = list(tally([(part, total) for part, _, total in rows], 7))  # type: ignore[misc]
    return rows


def all_was_in_time(seen: Seen) -> list[str]:
    """Look at what was measured: everything is caught up with within a minute, and messages do not pile up."""
    seconds = {
        "the longest wait of a request for its run": seen.longest_wait,
        "the longest time that something startable was overdue": seen.longest_overdue,
        "the time until nothing was left to do, faults over": seen.settled_in,
    }
    late = [f"{what}: {took:.1f} s" for what, took in seconds.items() if took >= CAUGHT_UP]
    rare = [
        f"only {samples} samples of {what} in {seen.took:.0f} s"
        for what, samples in {"the ledger": seen.samples, "the queue": seen.queue_samples}.items()
        if samples < seen.took * SAMPLED / SAMPLE
    ]
    return late + rare + [f"{seen.longest_queue} messages waited"] * (seen.longest_queue > LONGEST_QUEUE)


def _standings(site: Site) -> list[Standing]:
    rows = site.sql(
        "SELECT name, schedule IS NOT NULL, holder IS NOT NULL, nullif(next_due_at, 'infinity')"
        " FROM collectkit.collector ORDER BY name"
    )
    return [Standing(*row) for row in rows]
