"""A Peewee database that follows the scope: whatever it executes, the transaction's setting says what the scope says.

The setting is compared before each statement and set only where it differs, so nothing has to be undone at the end of a
scope, after an exception or after a rollback to a savepoint. It is always local to the transaction: when that ends, by
whatever end, the server forgets it.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any, Final

import peewee
import psycopg
from playhouse.postgres_ext import Psycopg3Database
from psycopg.pq import TransactionStatus

from collectkit import pooler
from collectkit.errors import ScopeError, UnsafeRole
from collectkit.scope import setting_in_force
from collectkit.server_cursor import ServerCursor

SETTING: Final = "collectkit.acl"
_SET: Final = f"SELECT set_config('{SETTING}', %s, true)"
_BEGINS: Final = re.compile(r"(\s|--[^\n]*\n|/\*.*?\*/)*(BEGIN|START)\b", re.IGNORECASE | re.DOTALL)
# After any other kind of statement, ROLLBACK TO SAVEPOINT above all, the setting may be another than we know.
_KEEPS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "SAVEPOINT", "RELEASE", "DECLARE"})
# By name, whether it is a superuser, has BYPASSRLS, is the one that the cluster was made with.
ROLE: Final = "SELECT rolname, rolsuper, rolbypassrls, oid = 10 FROM pg_roles WHERE rolname = current_user"


class ScopedDatabase(Psycopg3Database):  # type: ignore[misc]  # Peewee has no types
    """Executes every statement under the groups of the scope: a statement outside a transaction gets one of its own.

    Attributes:
        read_only: whether its sessions are, by an option. A pooler does not pass options on, so each transaction that
            does not say otherwise is told.

    Raises:
        UnsafeRole: on connecting, if the role is one that row security does not hold for.
    """

    read_only = False

    def begin(self, isolation_level: str | None = None) -> None:
        """Begin a transaction, the scope's groups with it in the same round trip."""
        if self._tells_read_only() and "READ WRITE" not in (isolation_level or "").upper():
            isolation_level = f"{isolation_level or 'READ COMMITTED'} READ ONLY"
        self._state.setting = None
        wanted = setting_in_force()
        if not wanted:
            super().begin(isolation_level)
            self._state.setting = ""
            return
        kind = f"TRANSACTION ISOLATION LEVEL {isolation_level}" if isolation_level else ""
        # No parameters and no preparing: that lets one message hold two statements. Nothing but ids is in the text.
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]  # there is no public name
            self.cursor().execute(f"BEGIN {kind}; {_SET.replace('%s', psycopg.sql.quote(wanted))}", prepare=False)
        self._state.setting = wanted

    def execute_sql(self, sql: str, params: Any = None, named_cursor: Any = None) -> Any:
        """Execute one statement under the groups that are in force here and now."""
        if self._is_outside():
            self._state.setting = None
            if _BEGINS.match(sql):
                return self._begin_by_statement(sql, params)
            if setting_in_force() or self._tells_read_only():
                return self._in_its_own_transaction(sql, params, named_cursor)
            return super().execute_sql(sql, params, named_cursor)
        self.follow_scope()
        # Not known while it is under way: an interrupt may strike after the server has done it.
        told, self._state.setting = getattr(self._state, "setting", None), None
        cursor = super().execute_sql(sql, params, named_cursor)
        if named_cursor:
            cursor.before_rows = partial(self._tell, setting_in_force())
        if _keeps(cursor):
            self._state.setting = told
        return cursor

    def follow_scope(self) -> None:
        """Make the open transaction's setting say what the scope says; whoever goes round ``execute_sql`` calls it."""
        self._tell(setting_in_force())

    def _tell(self, wanted: str) -> None:
        if getattr(self._state, "setting", None) == wanted or self._has_failed():
            return
        self._state.setting = None  # as above
        super().execute_sql(_SET, (wanted,))
        self._state.setting = wanted

    def _begin_by_statement(self, sql: str, params: Any) -> Any:
        """Begin the transaction as the author says; the groups follow with its first statement."""
        cursor = super().execute_sql(sql, params)
        if self._tells_read_only() and "READ WRITE" not in sql.upper():
            super().execute_sql("SET TRANSACTION READ ONLY")
        return cursor

    def _in_its_own_transaction(self, sql: str, params: Any, named_cursor: Any) -> Any:
        """Execute the setting and the statement in a transaction that is one round trip.

        What a pipeline sends would be one transaction by itself. But where that fails as it commits, on a deferred
        constraint say, the error belongs to no statement, and psycopg 3.3 raises one of its own instead of it.
        """
        if named_cursor:
            raise ScopeError(
                "a server-side cursor needs a transaction under access groups, or through a pooler: "
                "open database.atomic()"
            )
        connection: psycopg.Connection[Any] = self.connection()
        handled = sys.exception()
        try:
            with peewee.__exception_wrapper__, connection.pipeline():  # type: ignore[attr-defined]  # as above
                connection.execute("BEGIN READ ONLY" if self._tells_read_only() else "BEGIN")
                connection.execute(_SET, (setting_in_force(),))
                cursor = super().execute_sql(sql, params)
                connection.execute("COMMIT")
            if not _keeps(cursor):
                # After a ROLLBACK, say, psycopg forgets what was prepared, and has PostgreSQL forget it after the next
                # statement: that one must not be prepared, or PostgreSQL alone would forget it.
                connection.execute("", prepare=False)
        except BaseException as error:
            # What an interrupt has left half sent cannot be taken back, so nobody gets this connection. psycopg may
            # leave the pipeline with an error of its own instead; or not be able to leave it, as after COPY.
            struck = _interrupt_under(error, handled)
            whole = struck is None and not connection.pgconn.pipeline_status
            try:
                if whole and self._has_failed():
                    connection.rollback()
            finally:
                if not whole or self._status() != TransactionStatus.IDLE:
                    connection.close()
            if struck is None:
                raise
            raise struck from None
        return cursor

    def _connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = super()._connect()
        pooler.heed(connection)
        connection.server_cursor_factory = ServerCursor
        row = connection.execute(ROLE).fetchone()
        if row is not None and (row[1] or row[2]):
            connection.close()
            raise UnsafeRole(row[0], superuser=row[1], bootstrap=row[3])
        return connection

    def _tells_read_only(self) -> bool:
        return self.read_only and pooler.stands_between(self.connection())

    def _is_outside(self) -> bool:
        """Tell whether no transaction is open, whoever began or ended one; a connection that died is let go."""
        if self._state.closed:
            return True
        if self._state.conn.closed and not self.in_transaction():
            self.close()
            return True
        return bool(self._status() == TransactionStatus.IDLE)

    def _has_failed(self) -> bool:
        # In a transaction that has failed only its end, or that of a savepoint, can be executed.
        return bool(self._status() == TransactionStatus.INERROR)

    def _status(self) -> TransactionStatus:
        status: TransactionStatus = self._state.conn.info.transaction_status
        return status


def _keeps(cursor: Any) -> bool:
    """Tell whether the statement has left the setting as it was."""
    return (cursor.statusmessage or "").partition(" ")[0] in _KEEPS


def _interrupt_under(error: BaseException | None, handled: BaseException | None) -> BaseException | None:
    """Return the interrupt that led to this error, or is it; one that was being handled before led to nothing."""
    while error is not None and error is not handled and isinstance(error, Exception):
        error = error.__context__
    return None if error is handled else error
