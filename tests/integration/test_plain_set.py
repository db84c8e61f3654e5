"""What leaks where a session variable is SET in many places: each test fails against that, and not against ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import peewee
import pytest

from collectkit import acl_scope
from collectkit.database import database
from collectkit.scoped import ScopedDatabase
from tests.secured import Paper, archive_of, ident


@pytest.fixture
def archive(db):
    with archive_of(db) as made:
        made.put("of red", ["red"])
        made.put("of green", ["green"])
        yield made


@contextmanager
def plain_set(groups):
    """The common style: set when somebody's work begins, and nobody takes it away."""
    database.execute_sql(f"SET collectkit.acl = '{','.join(str(ident(group)) for group in groups)}'")
    yield


PLAIN = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a plain SET leaks")


@pytest.fixture(params=["ours", pytest.param("plain", marks=PLAIN)])
def under(request, monkeypatch):
    """Our scope; or a plain SET, on a database that does nothing about it."""
    if request.param == "ours":
        return acl_scope

    def execute(database, sql, params=None, named_cursor=None):
        return super(ScopedDatabase, database).execute_sql(sql, params, named_cursor)

    monkeypatch.setattr(ScopedDatabase, "execute_sql", execute)
    return plain_set


def seen():
    return {paper.name for paper in Paper.select()}


def test_the_groups_of_a_task_are_gone_for_the_next_one_on_its_connection(archive, under):
    def task():
        with under(["red"]):
            assert seen() == {"of red"}
        database.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(task).result()

    assert seen() == set()


def test_the_groups_of_a_request_that_failed_are_gone(archive, under):
    with suppress(ZeroDivisionError), under(["red"]):
        raise ZeroDivisionError

    assert seen() == set()


def test_groups_are_still_in_force_after_the_transaction_around_them_was_rolled_back(archive, under):
    with database.atomic() as transaction, under(["red"]):
        before = seen()
        transaction.rollback()
        after = seen()

    assert (before, after) == ({"of red"}, {"of red"})


def test_groups_of_an_inner_part_give_way_to_those_of_the_outer(archive, under):
    with under(["red"]):
        with under(["green"]):
            assert seen() == {"of green"}
        assert seen() == {"of red"}


def test_a_reader_between_the_rows_of_a_generator_keeps_its_own_groups(archive, under):
    def rows():
        with under(["green"]):
            for paper in Paper.select():
                yield paper.name

    with under(["red"]):
        coming = rows()
        assert next(coming) == "of green"
        found = seen()
        coming.close()
    assert found == {"of red"}


def setting():
    return database.connection().execute("SELECT current_setting('collectkit.acl', true)").fetchone()


def test_a_setting_ends_with_its_transaction_and_reads_as_empty_which_means_no_group(archive, under):
    with under(["red"]), database.atomic():
        assert seen() == {"of red"}

    # Not NULL, as on a connection where it was never set: a policy that asks for NULL alone would raise an error here.
    assert (setting(), seen()) == (("",), set())
    database.close()
    database.close_idle()
    assert (setting(), seen()) == ((None,), set())


def test_a_plain_set_by_somebody_else_is_overruled_by_every_scope(archive):
    database.execute_sql(f"SET collectkit.acl = '{ident('green')}'")

    with acl_scope(["red"]):
        assert seen() == {"of red"}
    with pytest.raises(peewee.DataError), acl_scope(["red"]):
        database.execute_sql("SELECT 1 / 0")
    with acl_scope(["blue"]):
        assert seen() == set()
    database.connection().execute("RESET collectkit.acl")
