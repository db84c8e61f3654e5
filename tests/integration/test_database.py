"""The ledger's connections: what goes wrong on them is said in words that tell what to do."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from msgspec import structs

from collectkit import ledger
from collectkit.database import connect, disconnect, ledger_db
from collectkit.errors import DatabaseUnavailable, NotMigrated, SettingsError
from collectkit.scheduler import Scheduler
from collectkit.settings import Settings


def test_an_address_that_the_driver_refuses_is_not_quoted():
    password = "hid%zz"

    with pytest.raises(SettingsError, match=r"^COLLECTKIT_DATABASE_URL: ") as caught:
        connect(Settings(database_url=f"postgresql://role@host/db?password={password}"))

    assert password not in "".join(traceback.format_exception(caught.value))


def test_every_thread_follows_to_another_address(db):
    with ThreadPoolExecutor(1) as other:
        before = other.submit(ledger_db.read, "SELECT pg_backend_pid()").result()
        again = other.submit(ledger_db.read, "SELECT pg_backend_pid()").result()

        disconnect()
        connect(structs.replace(db.settings, database_url=f"{db.settings.database_url}&target_session_attrs=any"))
        after = other.submit(ledger_db.read, "SELECT pg_backend_pid()").result()
        other.submit(ledger_db.let_go).result()

    assert before == again != after


def test_a_scheduler_that_starts_before_the_migration_waits_for_it(db):
    ledger_db.run("DROP SCHEMA collectkit CASCADE")

    with pytest.raises(NotMigrated, match="run `collectkit migrate`"):
        Scheduler([]).schedule()


def test_a_lock_that_is_not_given_is_not_taken_for_a_server_that_is_away(db):
    with psycopg.connect(db.settings.database_url) as other:
        other.execute("LOCK TABLE collectkit.collector")

        with pytest.raises(DatabaseUnavailable, match=r"^PostgreSQL could not carry out a statement: .*lock timeout"):
            ledger.lapsed(db.settings.lease_ttl)
