"""The search for leaks, twenty times as long, and bugs that are planted to see that it finds them."""

from __future__ import annotations

import os

import pytest

from collectkit import scope, scoped
from collectkit.scoped import ScopedDatabase
from tests.counter import Counter
from tests.integration.test_acl_leaks import archive
from tests.leaks import search

__all__ = ["archive"]

pytestmark = [
    pytest.mark.skipif(not os.environ.get("CHAOS"), reason="minutes: `make chaos`"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

STATEMENTS = 100_000
SEED = int(os.environ.get("SEED") or 1) * 1_000_000


def test_no_row_is_seen_or_written_outside_the_groups(archive):
    with Counter() as counter:
        search(counter, archive, STATEMENTS, SEED)

    print(f"\n{counter.statements:,} statements, no leak")


def plain_set(patch):
    """The setting is the session's, and outlives its transaction."""
    patch.setattr(scoped, "_SET", scoped._SET.replace("true", "false"))


def rollback_forgotten(patch):
    """What a rollback to a savepoint does to the setting is not noticed."""
    patch.setattr(scoped, "_KEEPS", scoped._KEEPS | {"ROLLBACK"})


def generators_forgotten(patch):
    """A scope that a generator opened is in force for whoever reads its rows."""
    patch.setattr(scope, "_generator_below", lambda _frame: None)


def generators_overruled(patch):
    """A scope that a reader has opened since its first row is in force for the generator that goes on."""
    counting = scope._counting
    patch.setattr(scope, "_counting", lambda: sorted(counting(), key=lambda each: each._generator is not None))


def set_at_begin_alone(patch):
    """A transaction keeps the groups that it began under."""
    patch.setattr(ScopedDatabase, "follow_scope", lambda _database: None)


def single_statements_forgotten(patch):
    """A statement outside a transaction gets none of its own, but the setting of the session."""

    def execute(database, sql, params, named_cursor):
        cursor = database.cursor()
        cursor.execute(scoped._SET.replace("true", "false"), [scope.setting_in_force()])
        return super(ScopedDatabase, database).execute_sql(sql, params, named_cursor)

    patch.setattr(ScopedDatabase, "_in_its_own_transaction", execute)


BUGS = [
    plain_set,
    rollback_forgotten,
    generators_forgotten,
    generators_overruled,
    set_at_begin_alone,
    single_statements_forgotten,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(archive, bug, monkeypatch):
    bug(monkeypatch)

    with Counter() as counter, pytest.raises(AssertionError):
        search(counter, archive, STATEMENTS, SEED)
