"""What access groups cost: a read, a checkpoint and a load, with row security and without, in turn.

The two tables of a read have the same columns, indexes and rows. With row security the reader opens a scope and says
nothing about groups; without it the statement has the same condition in its WHERE, with the ids ready, and no scope.
Both read as a program would: one statement by itself, or one in a transaction that the reader opens. The figure to
quote is the ratio of medians; on a machine that is busy otherwise that of the fastest tenth says more.
"""

from __future__ import annotations

import logging
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import peewee
import psycopg

from collectkit import AclModel, Model, Settings, acl_scope, collector, connect, cron, group_ids
from collectkit.database import database, ledger_db, writing
from collectkit.discovery import describe
from collectkit.embedded import EmbeddedPostgres
from collectkit.groups import Acl
from collectkit.load import Batch
from collectkit.migrate import migrate
from collectkit.models import GroupsField

READS, LOADS, ROWS, SEEN = 200, 7, 300_000, 1_000
READ_GOAL, LOAD_GOAL = 1.25, 1.30
PUBLIC = Acl(["public"], ["public-write"])
OTHERS = Acl(["internal"], ["internal-write"])


class Closed(AclModel):
    cve = peewee.TextField(primary_key=True)
    score = peewee.DoubleField()


class Open(Model):
    """The same columns and indexes, without row security."""

    cve = peewee.TextField(primary_key=True)
    score = peewee.DoubleField()
    acl_read = GroupsField()
    acl_write = GroupsField()


class Scores(AclModel):
    cve = peewee.TextField(primary_key=True)
    score = peewee.DecimalField(6, 5)
    percentile = peewee.DecimalField(6, 5)


class OpenScores(Model):
    cve = peewee.TextField(primary_key=True)
    score = peewee.DecimalField(6, 5)
    percentile = peewee.DecimalField(6, 5)


TABLES = [("scores", "ENABLE", Scores), ("scores", "DISABLE", Scores), ("open_scores", "DISABLE", OpenScores)]


@collector(periodic=cron("0 * * * *"), data_models=[Closed, Open, Scores, OpenScores], acl="public", name="bench.acl")
def scoped(run):
    run.store(updated_until_dt=run.started_at)


@collector(periodic=cron("0 * * * *"), name="bench.plain")
def plain(run):
    run.store(updated_until_dt=run.started_at)


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def in_turn(*acts: Callable[[], object], times: int) -> list[list[float]]:
    """Time each act so many times; which comes first is drawn anew each time, for a busy machine favours one."""
    figures: list[list[float]] = [[] for _ in acts]
    for _ in range(times):
        for number in random.sample(range(len(acts)), len(acts)):
            figures[number].append(timed(acts[number]))
    return figures


def say(what: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> None:
    mine, plain_one = statistics.median(ours), statistics.median(theirs)
    print(
        f"{what}: {mine:.2f} ms with row security, {plain_one:.2f} ms without: ratio {mine / plain_one:.2f} "
        f"(goal: at most {goal:.2f}; fastest tenth {fast(ours) / fast(theirs):.2f})",
        flush=True,
    )


def fast(figures: Sequence[float]) -> float:
    return sorted(figures)[len(figures) // 10]


def fill(share: int) -> None:
    """A thousand rows for us, and ``share`` times as many altogether."""
    rows = [
        {"cve": f"CVE-{number}", "score": 0.5, "acl_read": acl.read, "acl_write": acl.write}
        for number in range(SEEN * share)
        for acl in [PUBLIC if number % share == 0 else OTHERS]
    ]
    with acl_scope(PUBLIC.groups | OTHERS.groups), writing("bench", 60_000):
        for model in (Closed, Open):
            model.delete().execute()
            model.insert_many(rows).execute()
    ledger_db.run("VACUUM ANALYZE closed")
    ledger_db.run("VACUUM ANALYZE open")


def read() -> None:
    condition = Open.acl_read.contains_any(*group_ids(["public"]))
    kinds: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "models": (lambda model: model.select(), lambda query: query),
        "tuples": (lambda model: model.select(), lambda query: query.tuples()),
        "tuples of two columns": (lambda model: model.select(model.cve, model.score), lambda query: query.tuples()),
    }
    for share, around, (kind, (select, finish)) in product((1, 10), (nullcontext, database.atomic), kinds.items()):
        if kind == "models" and around is nullcontext:
            fill(share)

        def ours(around=around, select=select, finish=finish) -> None:
            with acl_scope(["public"]), around():
                assert len(list(finish(select(Closed)))) == SEEN

        def theirs(around=around, select=select, finish=finish) -> None:
            with around():
                assert len(list(finish(select(Open).where(condition)))) == SEEN

        alone = "by itself" if around is nullcontext else "in a transaction"
        what = f"read {SEEN:,} of {SEEN * share:,} rows as {kind}, {alone}"
        say(what, *in_turn(ours, theirs, times=READS), READ_GOAL)


def load() -> None:
    """Load into a table, into the same one with its row security off, and into one that lacks the groups' columns.

    The third is no like for like: what it saves is above all the two GIN indexes.
    """

    def into(model: type[peewee.Model], shift: int) -> None:
        rows = ((f"CVE-{n}", f"0.{(n + shift) % 100000:05d}", "0.50000") for n in range(ROWS))
        with acl_scope(PUBLIC.groups), writing("bench", 600_000):
            Batch(database.connection(), "bench.acl", PUBLIC).replace(model, rows)

    figures: dict[tuple[str, int], list[float]] = {}
    for _ in range(LOADS):
        for table, switch, model in random.sample(TABLES, len(TABLES)):
            ledger_db.run(f"ALTER TABLE {table} {switch} ROW LEVEL SECURITY")
            ledger_db.run(f"TRUNCATE {table}")
            for shift in (0, 1):
                taken = figures.setdefault((table + switch, shift), [])
                taken.append(timed(lambda model=model, shift=shift: into(model, shift)))
                ledger_db.run(f"VACUUM ANALYZE {table}")
    for shift, what in ((0, "first load"), (1, "refresh, all rows changed")):
        ours = figures["scoresENABLE", shift]
        say(f"{what}, {ROWS:,} rows", ours, figures["scoresDISABLE", shift], LOAD_GOAL)
        bare = statistics.median(figures["open_scoresDISABLE", shift])
        print(f"    a table without access groups: {bare:.0f} ms, ratio {statistics.median(ours) / bare:.2f}")


def checkpoint() -> None:
    sent: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *arguments, **options):
        sent.append(str(query))
        return execute(cursor, query, *arguments, **options)

    psycopg.Cursor.execute = counting
    counts = []
    for each in (plain, scoped):
        each.run_now()
        sent.clear()
        each.run_now()
        counts.append(len(sent))
    psycopg.Cursor.execute = execute
    print(f"a run with one checkpoint: {counts[0]} statements without groups, {counts[1]} with (goal: at most 1 more)")


def main() -> None:
    logging.disable(logging.CRITICAL)
    state_dir = Path(tempfile.mkdtemp(prefix="collectkit-bench-"))
    server = EmbeddedPostgres(state_dir)
    try:
        connect(Settings(database_url=server.start(), state_dir=state_dir))
        migrate(describe([scoped, plain]))
        checkpoint()
        read()
        load()
    finally:
        server.stop()
        shutil.rmtree(state_dir)


if __name__ == "__main__":
    main()
