"""A pooler between, in transaction mode: each transaction may have another session, and no option arrives."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peewee
import psycopg
import pytest

from collectkit import Settings, acl_scope, collector, connect, cron
from collectkit.database import database, disconnect, ledger_db
from collectkit.discovery import describe
from collectkit.errors import DatabaseUnavailable, ScopeError
from collectkit.migrate import migrate
from tests.counter import Counter
from tests.leaks import search
from tests.pgbouncer import PROGRAM, pgbouncer
from tests.secured import Archive, Paper

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on the PATH: apt install pgbouncer"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

GROUPS = ("red", "green", "blue")


@pytest.fixture
def papers(db):
    @collector(periodic=cron("0 * * * *"), data_models=[Paper], acl="public", name="tests.papers")
    def declared(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.replace(Paper, [{"name": f"paper {number}"} for number in range(100)])

    return declared


@pytest.fixture
def archive(db, papers):
    """The table, as seen without a pooler; everybody else has one between, with fewer sessions than threads."""
    db.enrol(papers)
    made = Archive(db.settings.database_url)
    directory = Path(tempfile.mkdtemp(prefix="ck-"))
    directory.chmod(0o711)
    with pgbouncer(db.settings.database_url, directory, sessions=5) as url:
        disconnect()
        connect(Settings(database_url=url, state_dir=db.settings.state_dir))
        yield made
        disconnect()
    connect(db.settings)
    made.close()
    shutil.rmtree(directory)


def test_sessions_are_shared_and_each_thread_sees_the_rows_of_its_groups(archive):
    for group in GROUPS:
        archive.put(f"of {group}", [group])

    def ask(number):
        mine = GROUPS[number % 3]
        seen = []
        for _ in range(50):
            with acl_scope([mine]):
                seen.append({paper.name for paper in Paper.select()})
                with database.atomic(), database.atomic():
                    seen.append({paper.name for paper in Paper.select()})
            assert list(Paper.select()) == []
        pids = {pid for (pid,) in ledger_db.run("SELECT pg_backend_pid()")}
        database.close()
        ledger_db.let_go()
        return all(each == {f"of {mine}"} for each in seen), pids

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(12)))

    assert all(right for right, _ in found)
    assert len(set().union(*(pids for _, pids in found))) <= 5


def test_nothing_leaks_there_either(archive):
    with Counter() as counter:
        search(counter, archive, 1_000)


def test_a_run_goes_through(archive, papers):
    outcomes = [papers.run_now() for _ in range(3)]

    assert [(each.outcome, each.counts.inserted) for each in outcomes] == [("OK", 100), ("OK", 0), ("OK", 0)]
    assert ledger_db.run("SELECT count(*) FROM collectkit.run WHERE outcome = 'OK'") == [(3,)]


@pytest.mark.parametrize("groups", [[], ["red"]])
def test_a_write_outside_a_checkpoint_is_refused_although_no_option_arrives(archive, groups):
    assert ledger_db.run("SHOW default_transaction_read_only") == [("off",)]

    with acl_scope(groups):
        with pytest.raises(peewee.InternalError, match="read-only transaction"):
            Paper.delete().execute()
        with pytest.raises(ScopeError, match=r"database\.begin"):
            database.execute_sql("BEGIN")
        for level in (None, "SERIALIZABLE", "READ COMMITTED READ ONLY"):
            with pytest.raises(peewee.InternalError, match="read-only transaction"), database.atomic(level):
                Paper.delete().execute()


def test_the_isolation_that_the_database_wants_holds_for_what_is_told_to_be_read_only(archive):
    name = psycopg.sql.Identifier(archive.run("SELECT current_database()")[0][0])
    archive.run(psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = serializable").format(name))
    archive.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database() AND usename = current_user"
    )
    try:
        for groups in ([], ["red"]):
            with acl_scope(groups):
                assert database.execute_sql("SHOW transaction_isolation").fetchone() == ("serializable",)
                with database.atomic():
                    assert database.execute_sql("SHOW transaction_isolation").fetchone() == ("serializable",)
    finally:
        archive.run(psycopg.sql.SQL("ALTER DATABASE {} RESET default_transaction_isolation").format(name))


def test_migrate_wants_postgresql_itself(archive, papers):
    with pytest.raises(DatabaseUnavailable, match="leads to PostgreSQL itself"):
        migrate(describe([papers]))
