"""Fixtures for tests of collectors, against a real PostgreSQL and a real Valkey; pytest finds them by itself.

``COLLECTKIT_TEST_DATABASE_URL`` and ``COLLECTKIT_TEST_BROKER_URL`` name servers to use instead of embedded ones. The
database is emptied before each test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest import fixtures

from collectkit import scope
from collectkit.settings import Settings

# A fixture may open a scope and yield: it is in force for the tests that ask for it.
if hasattr(fixtures, "call_fixture_func"):
    scope.KEEPERS.add(fixtures.call_fixture_func.__code__)


@dataclass(frozen=True)
class TestDatabase:
    """A clean, migrated database that collectkit is connected to.

    Attributes:
        settings: what ``connect()`` was given.
    """

    __test__ = False

    settings: Settings

    def enrol(self, *collectors: object) -> None:
        """Create the tables and ledger rows of these collectors, as ``collectkit migrate`` does for discovered ones."""
        from collectkit.actor import Collector
        from collectkit.discovery import describe
        from collectkit.migrate import migrate

        migrate(describe([each for each in collectors if isinstance(each, Collector)]))


@pytest.fixture(scope="session")
def collectkit_state_dir() -> Iterator[Path]:
    """Give a directory for embedded servers; short, for a socket's path may have about a hundred bytes."""
    directory = Path(tempfile.mkdtemp(prefix="collectkit-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def collectkit_database_url(collectkit_state_dir: Path) -> Iterator[str]:
    """Give the address of a PostgreSQL database that tests may empty."""
    url = os.environ.get("COLLECTKIT_TEST_DATABASE_URL")
    if url:
        yield url
        return
    from collectkit.embedded import EmbeddedPostgres

    # What a crash of the machine would lose is of no interest to a test.
    server = EmbeddedPostgres(collectkit_state_dir, settings={"fsync": "off", "synchronous_commit": "off"})
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def collectkit_broker_url(collectkit_state_dir: Path) -> Iterator[str]:
    """Give the address of a Valkey that tests may empty."""
    url = os.environ.get("COLLECTKIT_TEST_BROKER_URL")
    if url:
        yield url
        return
    from collectkit.embedded import EmbeddedValkey

    server = EmbeddedValkey(collectkit_state_dir)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def collectkit_db(collectkit_database_url: str, tmp_path: Path) -> Iterator[TestDatabase]:
    """Give a clean, migrated database, and forget afterwards the collectors that the test declared."""
    with clean_database(collectkit_database_url, tmp_path) as made:
        yield made


@contextmanager
def clean_database(url: str, state_dir: Path) -> Iterator[TestDatabase]:
    """Do what ``collectkit_db`` does, for as long as the block lasts: several tests may share it."""
    from collectkit.broker import broker
    from collectkit.database import connect, database, disconnect, ledger_db
    from collectkit.discovery import describe
    from collectkit.migrate import migrate

    settings = Settings(database_url=url, state_dir=state_dir)
    connect(settings)
    known = dict(broker.actors)
    ledger_db.run("DROP SCHEMA IF EXISTS collectkit CASCADE")
    for (table,) in ledger_db.run("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"):
        ledger_db.run(f"DROP TABLE IF EXISTS public.{table} CASCADE")
    migrate(describe([]))
    yield TestDatabase(settings)
    if database.is_closed() is False:
        database.release()
    disconnect()
    broker.actors.clear()
    broker.actors.update(known)
