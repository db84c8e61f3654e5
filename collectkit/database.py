"""The two ways to PostgreSQL: a pool for models, read-only outside a checkpoint, and the ledger's connections.

They are apart because they fail apart: the author's transaction may be rolled back, stuck or killed while the ledger
must still be able to renew, close and claim.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import peewee
import psycopg
from playhouse.postgres_ext import PooledPsycopg3Database, Psycopg3Database
from psycopg.conninfo import conninfo_to_dict

from collectkit import pooler
from collectkit.errors import DatabaseUnavailable, NotConnected, NotMigrated, SettingsError
from collectkit.scoped import ScopedDatabase
from collectkit.settings import Settings, load_settings

# A peer that vanished without a word (a host that lost power) is noticed in 25 s, not after the kernel's two hours.
_NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# A role called collectkit would otherwise find, and make, collectors' tables in the schema of its own name.
SESSION = "-c timezone=UTC -c search_path=public"
_BROKEN = (peewee.OperationalError, peewee.InterfaceError)
# The classes of errors by which a server says that it goes, or is not there yet: connection and operator.
_GONE = ("08", "57")
_NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)


class ModelDatabase(PooledPsycopg3Database, ScopedDatabase):  # type: ignore[misc]  # Peewee has no types
    """The pool that models use. Every session is read-only; ``writing()`` opens the only transactions that write.

    What it executes it executes under the access groups that are in force. It counts the rows that plain Peewee
    statements wrote, so that a checkpoint knows whether it changed anything.
    """

    read_only = True

    def begin(self, isolation_level: str | None = None) -> None:
        """Begin a transaction, on a fresh connection if the pooled one turns out to be dead: nothing was sent yet."""
        self._replace_if_dead()
        try:
            super().begin(isolation_level)
        except _BROKEN:
            self.manual_close()
            super().begin(isolation_level)

    def rollback(self) -> None:
        """Roll back; a connection that cannot even do that is closed, which rolls back too and masks no first error."""
        try:
            super().rollback()
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
            self._state.conn.close()

    def release(self) -> None:
        """Let go of this thread's connection unless it is idle and whole, whatever an interrupt left behind."""
        connection = self._state.conn
        if connection is None or (not self._state.transactions and _is_idle(connection)):
            return
        self._state.transactions = []
        connection.close()
        self.close()

    def execute_sql(self, sql: str, params: Any = None, named_cursor: Any = None) -> Any:
        """Execute one statement and add the rows it wrote to ``rows_written``."""
        if not self._state.transactions:
            self._replace_if_dead()
        cursor = super().execute_sql(sql, params, named_cursor)
        if not named_cursor and (cursor.statusmessage or "").startswith(("INSERT", "UPDATE", "DELETE", "MERGE")):
            self._state.rows_written = self.rows_written + cursor.rowcount
        return cursor

    def _replace_if_dead(self) -> None:
        if self._state.conn is not None and _has_died(self._state.conn):
            self.manual_close()

    @property
    def rows_written(self) -> int:
        """The rows that this thread's connection has written through Peewee so far."""
        return getattr(self._state, "rows_written", 0)


class LedgerDatabase(Psycopg3Database):  # type: ignore[misc]  # Peewee has no types
    """The ledger's own connections, one a thread, read-write and autocommit: each statement is its own transaction."""

    def run(self, sql: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Execute one statement and return its rows.

        Raises:
            DatabaseUnavailable: the server cannot be reached or dropped the connection. The dead connection is let go,
                so that the next call begins afresh; it is not tried again here, for the statement may have been
                carried out. A connection that had died before is replaced: on it nothing was sent.
            NotMigrated: it lacks our tables.
        """
        if self._state.conn is not None and _has_died(self._state.conn):
            self.let_go()
        try:
            cursor = self.execute_sql(sql, params)
            return cursor.fetchall() if cursor.description else []
        except _BROKEN as error:
            self.let_go()
            raise DatabaseUnavailable(_unreachable(error)) from error
        except peewee.ProgrammingError as error:
            if isinstance(getattr(error, "orig", None), _NOT_MIGRATED):
                raise NotMigrated from error
            raise
        except BaseException:
            # An interrupt may strike between the statement and its answer; the connection is then out of step.
            if not self.is_closed() and not _is_idle(self._state.conn):
                self.let_go()
            raise

    def read(self, sql: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Execute a statement that only reads, a second time if the connection had died while it was idle."""
        try:
            return self.run(sql, params)
        except DatabaseUnavailable:
            return self.run(sql, params)

    def _connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = super()._connect()
        pooler.heed(connection)
        return connection

    def let_go(self) -> None:
        """Drop this thread's connection, whatever its state."""
        connection = self._state.conn
        self._state.reset()
        if connection is not None:
            connection.close()


database = ModelDatabase(None, max_connections=None)
ledger_db = LedgerDatabase(None)
_in_force: Settings | None = None


def connect(settings: Settings | None = None) -> None:
    """Make the database known to models and ledger; connections open when they are first used.

    Call it once, at the start of a service or script. Workers and schedulers need not: ``setup()`` does it.

    Arguments:
        settings: read from the environment if not given. Without a database URL the embedded server of a running
            ``collectkit up`` is used.

    Raises:
        SettingsError: a setting cannot be used.
        EmbeddedServerError: no URL is set and no embedded server runs.
    """
    global _in_force  # noqa: PLW0603 - there is one database, and one set of settings that goes with it
    settings = settings or load_settings()
    url = settings.database_url
    if url is None:
        from collectkit.embedded import running_urls

        url, _ = running_urls(settings.state_dir)
    url = url.replace("postgres://", "postgresql://", 1)
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What it says may quote the password, and so would a traceback.
        fault = "COLLECTKIT_DATABASE_URL: the value cannot be used: see that what is behind its ? is encoded and known"
        raise SettingsError([fault]) from None
    _in_force = settings
    if database.database == url:
        return
    # None means as many as there are threads: Peewee gives a thread one connection, so the threads are the limit.
    database.init(
        url,
        max_connections=None,
        prepare_threshold=0,
        application_name="collectkit",
        options=f"{SESSION} -c default_transaction_read_only=on",
        **_NETWORK,
    )
    ledger_db.init(
        url,
        prepare_threshold=0,
        application_name="collectkit ledger",
        options=f"{SESSION} -c lock_timeout=1000",
        **_NETWORK,
    )


def disconnect() -> None:
    """Close every connection of this thread and all idle ones, and forget the address; without one it does nothing."""
    if database.deferred:
        return
    database.close_all()
    database.init(None)
    ledger_db.let_go()
    ledger_db.init(None)


def clock() -> datetime:
    """Return the database's ``clock_timestamp()``: the only clock that the ledger knows."""
    settings_in_force()
    (now,) = ledger_db.read("SELECT clock_timestamp()")[0]
    return now  # type: ignore[no-any-return]


def settings_in_force() -> Settings:
    """Return the settings that ``connect()`` was given.

    Raises:
        NotConnected: it was not called yet.
    """
    if _in_force is None or database.database is None:
        raise NotConnected
    return _in_force


@contextmanager
def writing(application_name: str, idle_limit_ms: int) -> Iterator[datetime]:
    """Hold a read-write transaction on ``database`` open; commit at the end, roll back on any exception.

    What it sets ends with the transaction: the name by which the sweep finds and ends the backend of a stopped
    process, and the time after which the server ends an idle one itself. The database's clock comes back with it.
    This is the one place where anything enters a transaction before its rows.

    Arguments:
        application_name: the session's name in ``pg_stat_activity`` for as long as the transaction lasts.
        idle_limit_ms: ``idle_in_transaction_session_timeout``, in milliseconds.
    """
    settings_in_force()
    with database.transaction("READ COMMITTED READ WRITE"):
        cursor = database.execute_sql(
            "SELECT clock_timestamp(), set_config('application_name', %s, true),"
            " set_config('idle_in_transaction_session_timeout', %s, true)",
            (application_name, str(idle_limit_ms)),
        )
        yield cursor.fetchone()[0]


def _is_idle(connection: psycopg.Connection[Any]) -> bool:
    return connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def _has_died(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the server has ended the connection while it was idle; asks the kernel, not the server.

    After a restart of the server every thread has such a connection, and would waste a nudge or a run on it.
    """
    try:
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN)
        while waiting.poll(0):
            connection.pgconn.consume_input()  # a farewell, or a message that means nothing; the end raises
    except psycopg.OperationalError:
        return True
    return False


def _unreachable(error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state is not None and not state.startswith(_GONE):
        return f"PostgreSQL could not carry out a statement: {reason}"
    return f"PostgreSQL did not answer: {reason}; see that it runs and that COLLECTKIT_DATABASE_URL names it"
