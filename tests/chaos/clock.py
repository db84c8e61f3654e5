"""A database whose clock a test sets: everything that asks it for the time is told another one, real processes too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from collectkit.database import connect, database, disconnect, ledger_db
from collectkit.discovery import describe
from collectkit.migrate import migrate
from collectkit.settings import Settings
from tests.site import Servers

# The ledger's only clock is replaced by one of the same name, in this database alone. Whether it is asked in a WHERE,
# a RETURNING or a column's default, it tells the time that the test has set, or the true one and how far that is off.
_REPLACE = """
SET allow_system_table_mods = on;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock_timestamp;
CREATE SCHEMA clock;
CREATE TABLE clock.hand (at timestamptz, ahead interval NOT NULL DEFAULT '0');
INSERT INTO clock.hand DEFAULT VALUES;
GRANT USAGE ON SCHEMA clock TO public;
GRANT SELECT ON clock.hand TO public;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
  AS 'SELECT coalesce(at, pg_catalog.true_clock_timestamp() + ahead) FROM clock.hand'
"""


class Clock:
    """The clock of one database.

    Arguments:
        connection: a superuser's, to that database.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute(_REPLACE)

    def stand(self, at: datetime) -> None:
        """Show this moment until told otherwise."""
        self._connection.execute("UPDATE clock.hand SET at = %s", (at,))

    def run(self, ahead: timedelta = timedelta(0)) -> None:
        """Go as time goes, ahead of it or, if negative, behind it."""
        self._connection.execute("UPDATE clock.hand SET at = NULL, ahead = %s", (ahead,))

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()


@contextmanager
def clock_of(servers: Servers, name: str) -> Iterator[Clock]:
    """Make an empty database of this name, and give its clock."""
    servers.create_database(name)
    with psycopg.connect(servers.address_of_superuser(name), autocommit=True) as connection:
        yield Clock(connection)


@contextmanager
def simulated(servers: Servers, name: str) -> Iterator[Clock]:
    """Have collectkit in this process connected to a migrated database of this name, and give that one's clock."""
    with clock_of(servers, name) as clock:
        connect(Settings(database_url=servers.address_of(name), state_dir=servers.postgres.home.parent))
        try:
            migrate(describe([]))
            yield clock
        finally:
            ledger_db.let_go()
            if not database.is_closed():
                database.release()
            disconnect()
