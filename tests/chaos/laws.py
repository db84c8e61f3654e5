"""What must hold whatever was done to the processes: each law returns what breaks it, in words, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg

from collectkit.groups import Acl, group_id
from collectkit.scoped import SETTING
from collectkit.settings import Settings
from tests.chaos.subjects.sizes import MAX_ATTEMPTS
from tests.chaos.truth import TABLES, Truth, differences
from tests.site import Site

# One statement, so one snapshot: what the ledger says of each table, and what the table holds.
_STANDING = f"""
SELECT c.name, (c.meta_attr->>'rows')::int, (c.meta_attr->>'total')::int, t.rows, t.total
  FROM collectkit.collector c JOIN ({
    " UNION ALL ".join(
        f"SELECT 'chaos.{kind}' AS name, count(*) AS rows, coalesce(sum(value), 0) AS total FROM ({table}) t"
        for kind, table in TABLES.items()
    )
}) t USING (name)
 WHERE (coalesce((c.meta_attr->>'rows')::int, 0), coalesce((c.meta_attr->>'total')::int, 0)) <> (t.rows, t.total)
"""

# Rows that a run wrote in a transaction in which it did not store its watermark under its own fence.
_UNFENCED = """
SELECT a.run, count(*) FROM appended a JOIN collectkit.run r ON r.id = a.run
 WHERE NOT EXISTS (SELECT FROM witness.change w WHERE w.name = r.collector AND w.fence = r.fence AND w.stored
                      AND w.holder IS NOT NULL AND w.transaction = a.xmin::text::bigint)
 GROUP BY a.run ORDER BY a.run
"""


class Past(NamedTuple):
    """A run of the history."""

    id: int
    collector: str
    fence: int
    attempt: int
    outcome: str
    scheduled_for: Any
    started_at: Any
    finished_at: Any
    until_before: Any
    until_after: Any


def rows_are_those_of_the_source(site: Site, truth: Truth, kinds: tuple[str, ...]) -> list[str]:
    """Compare the tables with the source, row by row."""
    broken = []
    for kind in kinds:
        found = Counter(site.sql(TABLES[kind]))
        for what, rows in differences(truth.expected(kind), found).items():
            if rows:
                broken.append(f"{kind}: {len(rows)} rows {what}, first {rows[0]}")
    return broken


def rows_are_for_their_groups(site: Site, tables: Iterable[str], groups: Acl) -> list[str]:
    """Look at tables with access groups: rows have these and no others, and without groups nobody sees a row.

    It is the superuser who looks for others: a row of other groups is hidden from everybody else here.
    """
    ids = [[group_id(name, Settings().acl_namespace) for name in names] for names in (groups.read, groups.write)]
    broken = []
    with psycopg.connect(site.servers.address_of_superuser(site.database)) as all_seeing:
        for table in tables:
            count = f"SELECT count(*) FROM {table}"
            found = all_seeing.execute(f"{count} WHERE (acl_read, acl_write) IS DISTINCT FROM (%s::uuid[], %s)", ids)
            ((others,),) = found.fetchall()
            with site.connection.transaction():
                site.sql(f"SET LOCAL {SETTING} = ''")
                ((seen,),) = site.sql(count)
            broken += [f"{table}: {others} rows have other groups"] * bool(others)
            broken += [f"{table}: without groups {seen} rows are seen"] * bool(seen)
    return broken


def rows_and_watermark_agree(site: Site) -> list[str]:
    """Compare the tables with what the last checkpoint said of them, at this instant."""
    return [
        f"{name}: the ledger speaks of {said} rows that add up to {total}, the table holds {rows} and {of}"
        for name, said, total, rows, of in site.sql(_STANDING)
    ]


def one_committer(site: Site) -> list[str]:
    """Look at what was committed, change by change: who wrote, and whether the watermark went back."""
    broken = [
        f"run {run} committed {rows} rows that no checkpoint of its fence covers" for run, rows in site.sql(_UNFENCED)
    ]
    last: dict[str, tuple[int, Any]] = {}
    for name, fence, holder, before, until, until_before in site.sql(
        "SELECT name, fence, holder, holder_before, until, until_before FROM witness.change ORDER BY id"
    ):
        fence_before, held_by = last.get(name, (fence - (holder != before and holder is not None), before))
        if before != held_by:
            broken.append(f"{name}: fence {fence} follows a holder that nobody saw")
        if holder is not None and before is not None and holder != before:
            broken.append(f"{name}: fence {fence} took the collector from a holder that nobody had closed")
        claimed = holder is not None and before is None
        if fence != fence_before + claimed:
            broken.append(f"{name}: fence {fence} follows {fence_before}")
        if until_before is not None and (until is None or until < until_before):
            broken.append(f"{name}: the watermark went back from {until_before} to {until}")
        last[name] = (fence, holder)
    return broken


def past_runs(site: Site) -> dict[str, list[Past]]:
    """Return the runs of each collector, in their order."""
    runs: dict[str, list[Past]] = {}
    for row in site.sql(
        "SELECT id, collector, fence, attempt, outcome, scheduled_for, started_at, finished_at, until_before,"
        " until_after FROM collectkit.run ORDER BY collector, fence"
    ):
        past = Past(*row)
        runs.setdefault(past.collector, []).append(past)
    return runs


def history_follows_the_rules(site: Site) -> list[str]:
    """Look at the runs of each collector: one at a time, attempts counted, due times given back, watermarks joined."""
    return [
        f"{name}: run {after.id} (attempt {after.attempt}) after run {before.id} ({before.outcome}, attempt"
        f" {before.attempt}): {fault}"
        for name, line in past_runs(site).items()
        for before, after in pairwise(line)
        for fault in _faults(before, after)
    ]


def _faults(before: Past, after: Past) -> list[str]:
    unspent = before.attempt < MAX_ATTEMPTS
    if before.outcome == "OK":
        attempt = 1
    elif before.outcome in {"HANDED_OVER", "REVOKED"}:
        attempt = before.attempt
    else:
        attempt = before.attempt + 1 if unspent else 1
    given_back = before.outcome in {"HANDED_OVER", "REVOKED"} or (before.outcome == "LOST" and unspent)
    late = after.scheduled_for is None or (before.scheduled_for and after.scheduled_for > before.scheduled_for)
    return [
        words
        for words, is_broken in {
            "a fence is missing": after.fence != before.fence + 1,
            "it began before the other had ended": not before.finished_at or after.started_at < before.finished_at,
            f"its attempt should be {attempt}": after.attempt != attempt,
            "it does not serve the due time that was given back": given_back and before.scheduled_for and late,
            "it did not begin where the other had stopped": after.until_before
            != (before.until_after or before.until_before),
        }.items()
        if is_broken
    ]
