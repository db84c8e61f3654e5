"""What must hold after a soak: tables equal to the sources byte for byte, and the laws of the ledger's history."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.chaos.laws import history_follows_the_rules, one_committer
from tests.chaos.soak import Seen
from tests.chaos.soaked.plan import DERIVED, KINDS, PARTS, SOURCES
from tests.chaos.soaked.source import Source, tally
from tests.chaos.truth import differences
from tests.site import Site

Rows = list[tuple[int, ...]]

_QUERIES = {
    "append": "SELECT seq, value FROM appended WHERE stream = {number} ORDER BY seq, value",
    "window": "SELECT id, value FROM event WHERE stream = {number} ORDER BY id",
    "snapshot": "SELECT id, value FROM snapshot{number} ORDER BY id",
    "tally": "SELECT part, rows, total FROM tally{number} ORDER BY part",
    "grand": "SELECT part, rows, total FROM grand{number} ORDER BY part",
}


def judge(site: Site, seen: Seen) -> list[str]:
    """Return every law that was broken, in words."""
    return [
        *seen.broken,
        *tables_are_the_sources(site, seen),
        *one_committer(site),
        *history_follows_the_rules(site),
        *every_request_was_served(site, seen),
        *every_collector_has_its_plan(site),
        *no_tick_was_lost(site),
    ]


def tables_are_the_sources(site: Site, seen: Seen) -> list[str]:
    """Compare each table with what its source says, computed from that alone."""
    broken = []
    for name in [*SOURCES, *DERIVED]:
        kind, _, number = name.partition("_")
        expected = oracle(site, seen, kind, int(number))
        with site.connection.cursor().copy(f"COPY ({_QUERIES[kind].format(number=number)}) TO STDOUT") as copy:
            found = b"".join(map(bytes, copy))
        if found != b"".join(b"%s\n" % b"\t".join(b"%d" % value for value in row) for row in expected):
            rows = [tuple(map(int, line.split(b"\t"))) for line in found.splitlines()]
            for what, some in differences(Counter(expected), Counter(rows)).items():
                if some:
                    broken.append(f"{name}: {len(some)} rows {what}, first {some[0]}")
    return broken


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


def every_request_was_served(site: Site, seen: Seen) -> list[str]:
    """Look for a run that began when the request was made or later."""
    last: dict[str, Any] = dict(site.sql("SELECT collector, max(started_at) FROM collectkit.run GROUP BY collector"))
    return [
        f"{name}: asked to run at {at}, last ran at {last.get(name)}"
        for name, at in seen.requests
        if last.get(name) is None or last[name] < at
    ]


def every_collector_has_its_plan(site: Site) -> list[str]:
    """Look whether each was run, and knows when it runs again; and whether ticks were left out."""
    broken = []
    for name, runs, due, overdue in site.sql(
        "SELECT c.name, (SELECT count(*) FROM collectkit.run r WHERE r.collector = c.name AND r.outcome = 'OK'),"
        " c.next_due_at IS NOT NULL OR c.holder IS NOT NULL, c.next_due_at < clock_timestamp() - interval '60 s'"
        " FROM collectkit.collector c"
    ):
        if not runs:
            broken.append(f"{name}: never ran to its end")
        if not due or overdue:
            broken.append(f"{name}: is overdue, or does not know when it is due")
    return broken


def no_tick_was_lost(site: Site) -> list[str]:
    """Look at each run that followed one which ended well: it serves the first tick after that began, if not before."""
    return [
        f"{name}: the run after that of {before} served {due}, and not the tick before"
        for name, before, due in site.sql(
            "SELECT collector, before, scheduled_for FROM (SELECT r.collector, r.scheduled_for,"
            " lag(r.started_at) OVER w AS before, lag(r.outcome) OVER w AS outcome"
            " FROM collectkit.run r JOIN collectkit.collector c ON c.name = r.collector AND c.schedule = '* * * * *'"
            " WINDOW w AS (PARTITION BY r.collector ORDER BY r.fence)) r"
            " WHERE outcome = 'OK' AND scheduled_for > date_trunc('minute', before) + interval '1 min'"
        )
    ]
