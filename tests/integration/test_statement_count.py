"""What a run may cost, counted, not timed: statements and commits, however many collectors there are."""

from __future__ import annotations

import peewee
import psycopg
import pytest

from collectkit import AclModel, Model, acl_scope, collector, cron
from collectkit.database import ledger_db


class Row(Model):
    id = peewee.IntegerField(primary_key=True)


class Closed(AclModel):
    id = peewee.IntegerField(primary_key=True)


@pytest.mark.parametrize(("neighbours", "acl"), [(0, None), (200, None), (0, "public")])
def test_a_run_takes_at_most_seven_statements_and_three_commits(db, monkeypatch, neighbours, acl):
    """Access groups come with the BEGIN: they cost no statement of their own."""

    @collector(periodic=cron("0 * * * *"), data_models=[Row, Closed], acl=acl, name="tests.counted")
    def counted(run):
        with run.checkpoint(updated_until_dt=run.started_at):
            if acl is None:
                Row.insert(id=run.id).execute()
            else:
                Closed.insert(id=run.id, acl_read=["public"], acl_write=["public-write"]).execute()

    db.enrol(counted)
    ledger_db.run(
        "INSERT INTO collectkit.collector (name, tz, schedule)"
        " SELECT 'tests.neighbour' || n, 'UTC', '@daily' FROM generate_series(1, %(n)s) n",
        {"n": neighbours},
    )
    counted.run_now()
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() WHERE name = 'tests.counted'")
    sent = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *arguments, **options):
        sent.append(" ".join(str(query).split()))
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    counted()

    monkeypatch.undo()
    with acl_scope(["public"]):
        assert Row.select().count() + Closed.select().count() == 2
    frame = [query for query in sent if query.startswith(("BEGIN", "COMMIT", "SET TRANSACTION"))]
    statements = [query for query in sent if query not in frame]
    assert len(statements) <= 7, statements
    # Claim and close are a commit each, in autocommit; what is between BEGIN and COMMIT is one.
    in_autocommit = [query for query in statements if "SET fence = fence + 1" in query or "SET holder = NULL" in query]
    assert len(in_autocommit) + len([query for query in frame if query == "COMMIT"]) <= 3
    assert len(frame) == 2
