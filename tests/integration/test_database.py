"""The ledger's connections: what goes wrong on them is said in words that tell what to do."""

from __future__ import annotations

import traceback

import psycopg
import pytest

from collectkit import ledger
from collectkit.database import connect, ledger_db
from collectkit.errors import DatabaseUnavailable, NotMigrated, SettingsError
from collectkit.scheduler import Scheduler
from collectkit.settings import Settings


def test_an_address_that_the_driver_refuses_is_not_quoted():
    password = "hid%zz"

    with pytest.raises(SettingsError, match=r"^COLLECTKIT_DATABASE_URL: ") as caught:
        connect(Settings(database_url=f"postgresql://role@host/db?password={password}"))

    assert password not in "".join(traceback.format_exception(caught.value))


def test_a_scheduler_that_starts_before_the_migration_waits_for_it(db):
    ledger_db.run("DROP SCHEMA collectkit CASCADE")

    with pytest.raises(NotMigrated, match="run `collectkit migrate`"):
        Scheduler([]).schedule()


def test_a_lock_that_is_not_given_is_not_taken_for_a_server_that_is_away(db):
    with psycopg.connect(db.settings.database_url) as other:
        other.execute("LOCK TABLE collectkit.collector")

        with pytest.raises(DatabaseUnavailable, match=r"^PostgreSQL could not carry out a statement: .*lock timeout"):
            ledger.lapsed(db.settings.lease_ttl)
