"""Connections to PostgreSQL, one a thread: those that have died or are out of step are noticed and let go."""

from __future__ import annotations

import select
from typing import Any

import peewee
import psycopg
from playhouse.postgres_ext import PooledPsycopg3Database, Psycopg3Database

from collectkit import pooler
from collectkit.errors import DatabaseUnavailable, NotMigrated
from collectkit.scoped import ScopedDatabase

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
        """Begin a transaction, on a fresh connection if the pooled one turns out to be dead: nothing was sent yet.

        Not within ``manual_commit()``, where the connection is the author's, nor if it could not be made to begin with.
        """
        if not self.in_transaction():
            self._replace_if_dead()
        try:
            super().begin(isolation_level)
        except _BROKEN:
            if self.in_transaction() or self.is_closed():
                raise
            self.manual_close()
            super().begin(isolation_level)

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
        if self._state.conn is not None and (self._state.address != self.database or _has_died(self._state.conn)):
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
        except BaseException:  # an interrupt between the statement and its answer leaves the connection out of step
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
        # ``disconnect()`` reaches the connection of its own thread alone; the others learn of it here.
        self._state.address = self.database
        pooler.heed(connection)
        return connection

    def let_go(self) -> None:
        """Drop this thread's connection, whatever its state."""
        connection = self._state.conn
        self._state.reset()
        if connection is not None:
            connection.close()


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
