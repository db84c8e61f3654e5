"""The scope against a real PostgreSQL: what is in force is what the scope says, statement by statement."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count

import peewee
import psycopg
import pytest
from dramatiq.middleware import Shutdown
from playhouse.postgres_ext import ServerSide

from collectkit import acl_scope, cron, group_ids, set_user_acls
from collectkit.acl import scope_of
from collectkit.database import database, ledger_db, writing
from collectkit.errors import NotConnected, ScopeError
from collectkit.scoped import ScopedDatabase
from tests.secured import Paper, archive_of, ident

HOURLY = cron("0 * * * *")


@pytest.fixture
def archive(db):
    with archive_of(db) as made:
        made.put("of red", ["red"])
        made.put("of green", ["green"])
        made.put("of both", ["red", "green"])
        yield made


def seen():
    return {paper.name for paper in Paper.select()}


def setting():
    return database.execute_sql("SELECT current_setting('collectkit.acl', true)").fetchone()[0] or ""


def test_a_group_is_known_by_an_id_that_follows_from_its_name(db):
    assert group_ids(["red"]) == [ident("red")]


def test_without_a_scope_no_row_is_seen(archive):
    assert seen() == set()


def test_a_scope_shows_the_rows_of_its_groups_and_no_others(archive):
    with acl_scope(["red"]):
        assert seen() == {"of red", "of both"}
    with acl_scope(["red", "green"]):
        assert len(seen()) == 3
    with acl_scope(["blue"]):
        assert seen() == set()
    with acl_scope([]):
        assert seen() == set()
    assert seen() == set()


def test_the_setting_ends_with_the_transaction(archive):
    with acl_scope(["red"]):
        assert setting() == str(ident("red"))
        with database.atomic():
            assert setting() == str(ident("red"))

    assert setting() == ""
    # The very connection, asked past everything of ours.
    assert database.connection().execute("SELECT current_setting('collectkit.acl', true)").fetchone() == ("",)


def test_a_scope_may_begin_and_end_within_a_transaction(archive):
    with database.atomic():
        assert seen() == set()
        with acl_scope(["red"]):
            assert seen() == {"of red", "of both"}
            with acl_scope(["green"]):
                assert seen() == {"of green", "of both"}
            assert seen() == {"of red", "of both"}
        assert seen() == set()


def test_a_rollback_to_a_savepoint_brings_no_groups_back(archive):
    with database.atomic(), acl_scope(["red"]):
        seen()
        savepoint = database.savepoint()
        savepoint.__enter__()
        with acl_scope(["green"]):
            seen()
        savepoint.rollback(False)
        assert seen() == {"of red", "of both"}

    with database.atomic():
        with acl_scope(["red"]):
            seen()
            savepoint = database.savepoint()
            savepoint.__enter__()
        assert seen() == set()
        savepoint.rollback(False)
        assert seen() == set()


def test_a_failed_statement_leaves_no_groups_in_force(archive):
    with suppress(peewee.DataError), acl_scope(["red"]):
        database.execute_sql("SELECT 1 / 0")
    assert seen() == set()

    with database.atomic():
        with suppress(peewee.DataError), database.atomic(), acl_scope(["red"]):
            seen()
            database.execute_sql("SELECT 1 / 0")
        assert seen() == set()
        with acl_scope(["green"]):
            assert seen() == {"of green", "of both"}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_an_interrupt_within_a_statement_leaves_nothing_behind(archive, monkeypatch, moment):
    """Whether it strikes before its BEGIN, or before it is sent itself, or before its COMMIT."""
    seen()
    pid = database.connection().info.backend_pid
    wait, waits = psycopg.Connection.wait, count(1)

    def interrupted(connection, *arguments):
        if next(waits) == moment:
            raise Shutdown
        return wait(connection, *arguments)

    monkeypatch.setattr(psycopg.Connection, "wait", interrupted)
    with acl_scope(["red"]), pytest.raises(Shutdown):
        seen()
    monkeypatch.undo()

    assert seen() == set()
    with acl_scope(["green"]):
        assert seen() == {"of green", "of both"}
    assert database.connection().info.backend_pid != pid


@pytest.mark.parametrize("moment", [1, 2, 3])
@pytest.mark.parametrize("early", [True, False])
def test_an_interrupt_within_a_statement_that_fails_leaves_nothing_behind(archive, monkeypatch, moment, early):
    """Whether it strikes as something is sent or after the answer, that of the rollback among them."""
    seen()
    wait, waits = psycopg.Connection.wait, count(1)

    def interrupted(connection, *arguments):
        strikes = next(waits) == moment
        if strikes and early:
            raise Shutdown
        try:
            return wait(connection, *arguments)
        finally:
            if strikes:
                raise Shutdown

    monkeypatch.setattr(psycopg.Connection, "wait", interrupted)
    with acl_scope(["red"]), pytest.raises(Shutdown):
        database.execute_sql("SELECT 1 / 0")
    monkeypatch.undo()

    assert seen() == set()
    with acl_scope(["green"]):
        assert seen() == {"of green", "of both"}


def test_an_interrupt_after_a_rollback_to_a_savepoint_leaves_no_other_groups_in_force(archive, monkeypatch):
    wait = psycopg.Connection.wait

    def interrupted(connection, *arguments):
        wait(connection, *arguments)
        raise Shutdown

    with database.atomic():
        with acl_scope(["red"]):
            savepoint = database.savepoint()
            savepoint.__enter__()
        with acl_scope(["green"]):
            seen()
            monkeypatch.setattr(psycopg.Connection, "wait", interrupted)
            with pytest.raises(Shutdown):
                savepoint.rollback(False)
            monkeypatch.undo()
            assert seen() == {"of green", "of both"}


@pytest.mark.parametrize("statement", ["ROLLBACK", "DEALLOCATE ALL", "COPY paper TO STDOUT"])
def test_no_statement_outside_a_transaction_spoils_the_connection_for_the_next_ones(archive, statement):
    with acl_scope(["red"]):
        seen()
        with suppress(peewee.PeeweeException):
            database.execute_sql(statement)

        assert [seen(), seen()] == [{"of red", "of both"}] * 2


def test_a_statement_that_fails_as_it_commits_says_why_is_not_carried_out_and_spoils_nothing(archive):
    archive.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''of that name'' USING ERRCODE = ''check_violation''; END'"
    )
    archive.run(
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON paper DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    database.execute_sql("SET default_transaction_read_only = off")
    pid = database.connection().info.backend_pid
    with acl_scope(["red", "keepers"]):
        for _ in range(8):  # psycopg prepares at the sixth time
            with pytest.raises(peewee.IntegrityError, match="of that name"):
                Paper.update(text="new").where(Paper.name == "of red").execute()
        assert seen() == {"of red", "of both"}
    assert database.connection().info.backend_pid == pid
    assert archive.rows["of red"] == ""


def test_whoever_begins_a_transaction_by_hand_is_under_the_scope_too(archive):
    database.connection()
    with acl_scope(["red"]), database.manual_commit():
        assert seen() == {"of red", "of both"}
        database.begin()
        assert seen() == {"of red", "of both"}
        database.rollback()
        assert seen() == {"of red", "of both"}
    assert seen() == set()


@pytest.mark.parametrize(
    "statement", ["BEGIN", "-- by hand\nSTART TRANSACTION", "SAVEPOINT s", "DECLARE c CURSOR FOR SELECT 1"]
)
def test_what_would_be_over_with_its_own_transaction_is_refused_outside_one(archive, statement):
    with acl_scope(["red"]):
        with pytest.raises(ScopeError, match=r"database\.atomic"):
            database.execute_sql(statement)
        assert seen() == {"of red", "of both"}
    assert seen() == set()


@pytest.mark.parametrize(
    ("statement", "params"), [("SELECT %s", [object()]), ("SELECT '100%'", []), ("SELECT %s, %s", [1])]
)
def test_a_statement_that_cannot_even_be_sent_leaves_no_transaction_and_no_groups(archive, statement, params):
    database.execute_sql("SET default_transaction_read_only = off")
    pid = database.connection().info.backend_pid
    with acl_scope(["red", "keepers"]):
        with pytest.raises(peewee.ProgrammingError):
            database.execute_sql(statement, params)
        Paper.update(text="kept").where(Paper.name == "of red").execute()
    assert archive.rows["of red"] == "kept"

    with suppress(peewee.ProgrammingError), acl_scope(["red"]):
        database.execute_sql(statement, params)
    with database.atomic():
        assert setting() == ""
        assert seen() == set()
    assert database.connection().info.backend_pid == pid


def test_a_query_is_executed_under_the_scope_of_its_execution(archive):
    with acl_scope(["red"]):
        query = Paper.select()

    assert list(query) == []


def test_a_server_side_cursor_works_in_a_transaction_and_is_refused_outside(archive):
    with acl_scope(["red"]):
        with database.atomic():
            assert {paper.name for paper in ServerSide(Paper.select())} == {"of red", "of both"}
        with pytest.raises(ScopeError, match=r"database\.atomic"):
            list(ServerSide(Paper.select()))
    with database.atomic():
        assert list(ServerSide(Paper.select())) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda cursor: cursor.fetchall(),
        lambda cursor: cursor.fetchmany(9),
        list,
        lambda cursor: [cursor.fetchone(), cursor.fetchone()],
        lambda cursor: cursor.scroll(0, "absolute") or cursor.fetchall(),
    ],
    ids=["all", "many", "list", "one", "scroll"],
)
def test_a_server_side_cursor_has_the_groups_of_its_execution_whenever_its_rows_are_fetched(archive, ask):
    def executed(*groups):
        with acl_scope(groups):
            return closing(database.execute_sql("SELECT name FROM paper", named_cursor=True))

    with database.atomic():
        with executed("red") as cursor:
            with acl_scope(["blue"]):
                assert seen() == set()
            assert {name for (name,) in ask(cursor)} == {"of red", "of both"}
            assert seen() == set()
        with executed() as cursor, acl_scope(["red"]):
            assert len(seen()) == 2
            assert cursor.fetchall() == []
            assert len(seen()) == 2


def test_a_server_side_cursor_has_them_too_where_rows_without_groups_come_first(archive):
    """PostgreSQL asks for the groups at the first row that has some, which may be the last that is fetched."""
    statement = "SELECT 'open to all' FROM generate_series(1, 2) UNION ALL SELECT name FROM paper"

    with database.atomic():
        with acl_scope(["red"]):
            executed = database.execute_sql(statement, named_cursor=True)
        with closing(executed) as cursor:
            assert cursor.fetchone() == ("open to all",)
            with acl_scope(["green"]):
                seen()
                rest = {name for (name,) in cursor.fetchall()}

    assert rest == {"open to all", "of red", "of both"}


def test_a_pooled_connection_carries_nothing_to_its_next_user(archive):
    pids = []

    def ask(groups):
        with acl_scope(groups):
            found = seen()
        pids.append(database.connection().info.backend_pid)
        database.close()
        return found

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask, ["red"]).result() == {"of red", "of both"}
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seen).result() == set()
        assert pool.submit(ask, ["blue"]).result() == set()
    assert len(set(pids)) == 1


def test_a_thread_neither_inherits_the_scope_nor_disturbs_it(archive):
    meet = threading.Barrier(2, timeout=60)

    def elsewhere():
        before = seen()
        with acl_scope(["green"]), database.atomic():
            meet.wait()
            during = seen()
            meet.wait()
        return before, during

    with acl_scope(["red"]), database.atomic(), ThreadPoolExecutor(1) as pool:
        found = pool.submit(elsewhere)
        meet.wait()
        assert seen() == {"of red", "of both"}
        meet.wait()
        assert found.result() == (set(), {"of green", "of both"})


def test_a_generator_that_opens_a_scope_shows_its_rows_and_opens_nothing_to_its_reader(archive):
    def rows():
        with acl_scope(["red"]):
            for paper in Paper.select():
                yield paper.name, len(seen())

    with acl_scope(["green"]), database.atomic():
        coming = rows()
        assert next(coming)[1] == 2
        assert seen() == {"of green", "of both"}
        assert next(coming)[1] == 2
    assert seen() == set()
    coming.close()


def test_after_a_killed_connection_the_next_statement_is_under_the_scope_again(archive):
    with acl_scope(["red"]):
        seen()
        archive.run("SELECT pg_terminate_backend(%s, 10000)", [database.connection().info.backend_pid])
        assert seen() == {"of red", "of both"}

        transaction = database.atomic()
        transaction.__enter__()
        archive.run("SELECT pg_terminate_backend(%s, 10000)", [database.connection().info.backend_pid])
        with pytest.raises(peewee.OperationalError) as broken:
            seen()
        transaction.__exit__(broken.type, broken.value, broken.tb)
        assert seen() == {"of red", "of both"}
    assert seen() == set()


def test_a_connection_that_dies_in_a_manual_commit_says_that_it_died(archive):
    database.connection()
    with acl_scope(["red"]):
        with database.manual_commit():
            archive.run("SELECT pg_terminate_backend(%s, 10000)", [database.connection().info.backend_pid])
            with pytest.raises(peewee.OperationalError, match="terminating connection"):
                seen()
        assert seen() == {"of red", "of both"}


def test_a_statement_asks_a_server_that_lets_nobody_in_only_once(archive, monkeypatch):
    tries, connect = count(), psycopg.connect

    def counted(*arguments, **options):
        next(tries)
        return connect(*arguments, **options)

    name = psycopg.sql.Identifier(archive.run("SELECT current_database()")[0][0])
    limit = psycopg.sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format
    archive.run(limit(name, 0))
    try:
        database.close_all()
        monkeypatch.setattr(psycopg, "connect", counted)
        with acl_scope(["red"]), pytest.raises(peewee.OperationalError, match="too many connections"):
            seen()
    finally:
        archive.run(limit(name, -1))
    assert next(tries) == 1


def test_a_statement_that_cannot_be_rolled_back_says_its_own_error_on_any_scoped_database(archive):
    with closing(ScopedDatabase(database.database)) as plain, acl_scope(["red"]):
        with pytest.raises(peewee.ProgrammingError, match="COPY"):
            plain.execute_sql("COPY (SELECT 1) TO STDOUT")
        assert plain.execute_sql("SELECT count(*) FROM paper").fetchone() == (2,)


def test_a_scope_changes_nothing_about_the_isolation_that_a_database_wants(archive):
    with closing(ScopedDatabase(database.database, isolation_level="SERIALIZABLE")) as plain, acl_scope(["red"]):
        assert plain.execute_sql("SHOW transaction_isolation").fetchone() == ("serializable",)


def test_a_row_is_written_only_by_a_group_that_may_write_it(archive):
    def write(change):
        with suppress(peewee.ProgrammingError), writing("a test", 30_000):
            return change.execute()
        return "refused"

    update, delete = (change.where(Paper.name != "") for change in (Paper.update(text="new"), Paper.delete()))
    new = Paper.insert(name="new", acl_read=["red"], acl_write=["keepers"])

    assert write(update) == write(delete) == 0
    assert write(new) == "refused"
    with acl_scope(["red"]):
        assert write(update) == write(delete) == 0
        assert write(new) == "refused"
    with acl_scope(["keepers"]):
        assert write(new) == "refused"
        assert write(Paper.update(acl_read=["keepers"]).where(Paper.name == "of red")) == 0
    with acl_scope(["red", "keepers"]):
        assert write(update) == 2
        assert write(new) is not None
        assert write(Paper.update(acl_write=["blue"]).where(Paper.name == "of red")) == "refused"
        assert write(Paper.update(acl_read=["blue"]).where(Paper.name == "of red")) == "refused"
        assert write(delete) == 3
    assert archive.rows == {"of green": ""}


def test_groups_are_a_list_of_names(db):
    with pytest.raises(TypeError, match=r"\['red'\]"), acl_scope("red"):
        pass
    with pytest.raises(TypeError, match="7"), acl_scope([7]):
        pass


def test_a_scope_needs_to_know_the_namespace():
    with pytest.raises(NotConnected), acl_scope(["red"]):
        pass


def test_set_user_acls_holds_for_the_rest_of_a_run_or_request_and_for_nothing_else(archive):
    with pytest.raises(ScopeError, match="with acl_scope"):
        set_user_acls(["red"])
    with acl_scope(["red"]), pytest.raises(ScopeError):
        set_user_acls(["red"])

    request = scope_of([], root=True)
    request.open()
    assert seen() == set()
    set_user_acls(["green"])
    assert seen() == {"of green", "of both"}
    with database.atomic():
        set_user_acls(["red"])
        assert seen() == {"of red", "of both"}
    request.close()

    assert seen() == set()


def test_the_ledger_needs_no_groups(archive):
    assert ledger_db.run("SELECT count(*) FROM collectkit.collector") == [(1,)]
    with acl_scope(["red"]):
        assert database.execute_sql("SELECT count(*) FROM collectkit.collector").fetchone() == (1,)


def test_the_table_is_closed_to_its_owner_on_any_other_connection(archive, db):
    with psycopg.connect(db.settings.database_url) as connection:
        assert connection.execute("SELECT * FROM paper").fetchall() == []
        connection.execute("SELECT set_config('collectkit.acl', %s, true)", [f"{{{ident('red')}, {ident('blue')}}}"])
        assert len(connection.execute("SELECT * FROM paper").fetchall()) == 2
