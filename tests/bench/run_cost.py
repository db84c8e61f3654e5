"""What a run costs beside its SQL: a nudge that claims, commits one row and closes, against the bare statements.

Both send the same statements to the same PostgreSQL with default durability, in turn, one connection's worth each; the
figure to quote is the ratio of medians. The bare side prepares its statements and does nothing else. The row is also
written through Peewee's query builder, to show what that adds; it is the author's choice, not bookkeeping.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path

import peewee
import psycopg
from psycopg.types.json import Jsonb

from collectkit import Model, Settings, collector, connect, cron, statements
from collectkit.database import database, ledger_db
from collectkit.discovery import describe
from collectkit.embedded import EmbeddedPostgres
from collectkit.migrate import migrate

ROUNDS, RUNS, GOAL = 5, 300, 1.4
TTL = timedelta(seconds=30)
ROW = "INSERT INTO bench (id, v) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING id"
SESSION = (
    "SELECT clock_timestamp(), set_config('application_name', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)


class Bench(Model):
    id = peewee.IntegerField(primary_key=True)
    v = peewee.IntegerField()


@collector(periodic=cron("0 * * * *"), data_models=[Bench], name="bench.plain")
def plain(run):
    with run.checkpoint(updated_until_dt=run.started_at):
        database.execute_sql(ROW, (1, run.id))


@collector(periodic=cron("0 * * * *"), name="bench.peewee")
def through_peewee(run):
    with run.checkpoint(updated_until_dt=run.started_at):
        Bench.insert(id=1, v=run.id).on_conflict(conflict_target=[Bench.id], preserve=[Bench.v]).execute()


def bare(connection: psycopg.Connection) -> None:
    token = uuid.uuid4()
    asked = {"name": "bench.plain", "token": token, "ttl": TTL, "force": False}
    claimed = connection.execute(
        statements.CLAIM, asked | {"trigger": "due", "dry_run": False, "worker": "bare"}
    ).fetchone()
    held = {"name": "bench.plain", "token": token, "run": claimed[0], "fence": claimed[2]}
    connection.execute("BEGIN READ WRITE")
    connection.execute(SESSION, (f"collectkit {claimed[0]}", "30000"))
    connection.execute(ROW, (1, claimed[0]))
    mark = {"until": claimed[10], "stale_at": "infinity", "complete": True, "meta": Jsonb({}), "removed": []}
    groups = {"acl_read": None, "acl_write": None}
    connection.execute(statements.CHECKPOINT, held | mark | groups | {"counts": Jsonb({})})
    connection.execute(statements.PULL_FOLLOWERS, {"name": "bench.plain"})
    connection.execute("COMMIT")
    ending = {"outcome": "OK", "give": "tick", "attempt": 0, "tick": "infinity", "backoff": TTL, "error": None}
    connection.execute(statements.CLOSE, held | ending | groups | {"ttl": TTL, "result": None, "counts": Jsonb({})})


def timed(act, *arguments) -> float:
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp()")
    began = time.perf_counter()
    act(*arguments)
    return (time.perf_counter() - began) * 1000


def measure(url: str) -> None:
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        for round_number in range(ROUNDS + 1):
            ours, builder, theirs = zip(
                *((timed(plain), timed(through_peewee), timed(bare, connection)) for _ in range(RUNS)), strict=True
            )
            base = statistics.median(theirs)
            if round_number:  # the first round warms up
                print(
                    f"run {statistics.median(ours):.2f} ms, bare {base:.2f} ms: "
                    f"ratio {statistics.median(ours) / base:.2f} (goal: at most {GOAL}); "
                    f"row through Peewee {statistics.median(builder) / base:.2f}"
                )


def main() -> None:
    logging.disable(logging.CRITICAL)
    state_dir = Path(tempfile.mkdtemp(prefix="collectkit-bench-"))
    server = EmbeddedPostgres(state_dir)
    try:
        url = server.start()
        connect(Settings(database_url=url, state_dir=state_dir))
        migrate(describe([plain, through_peewee]))
        measure(url)
    finally:
        server.stop()
        shutil.rmtree(state_dir)


if __name__ == "__main__":
    main()
