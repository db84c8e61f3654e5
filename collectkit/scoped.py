"""A Peewee database that follows the scope: whatever it executes, the transaction's setting says what the scope says.

The setting is compared before each statement and set only where it differs, so nothing has to be undone at the end of a
scope, after an exception or after a rollback to a savepoint. It is always local to the transaction: when that ends, by
whatever end, the server forgets it.
"""

from __future__ import annotations

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
# After any other kind of statement, ROLLBACK TO SAVEPOINT above all, the setting may be another than we know.
_KEEPS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "SAVEPOINT", "RELEASE", "DECLARE"})
_LASTING: Final = frozenset({"BEGIN", "START TRANSACTION", "SAVEPOINT", "LOCK TABLE", "DECLARE CURSOR"})
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
        level = self._adapter.isolation_level_str(isolation_level or self._isolation_level)
        text = f"BEGIN ISOLATION LEVEL {level}" if level else "BEGIN"
        if self._tells_read_only() and "READ WRITE" not in text.upper():
            text += " READ ONLY"
        wanted = setting_in_force()
        if wanted:
            text += f"; {_SET.replace('%s', psycopg.sql.quote(wanted))}"
        self._state.setting = None
        # No parameters and no preparing: that lets one message hold two statements. Nothing but ids is in the text.
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]  # there is no public name
            self.cursor().execute(text, prepare=False)
        self._state.setting = wanted

    def rollback(self) -> None:
        """Roll back; a connection that cannot even do that is closed, which rolls back too and masks no first error."""
        try:
            super().rollback()
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
            self._state.conn.close()

    def execute_sql(self, sql: str, params: Any = None, named_cursor: Any = None) -> Any:
        """Execute one statement under the groups that are in force here and now."""
        if self._is_outside():
            self._state.setting = None
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

    def _in_its_own_transaction(self, sql: str, params: Any, named_cursor: Any) -> Any:
        """Execute one statement in a transaction that begins and ends with it.

        Three messages, each answered before the next is sent. A pipeline would have them all in one, but where the
        statement fails as it commits, psycopg 3.3 raises an error of its own instead of the database's.
        """
        if named_cursor:
            raise ScopeError(
                "a server-side cursor needs a transaction under access groups, or through a pooler: "
                "open database.atomic()"
            )
        try:
            try:
                self.begin()
                cursor = super().execute_sql(sql, params)
                _refuse_lasting(cursor)
                self.commit()
            except Exception:
                if not self._is_outside():
                    self.rollback()
                raise
        except BaseException as error:
            # What an interrupt has left half sent cannot be taken back, so nobody gets this connection.
            if not isinstance(error, Exception) and not self._state.closed:
                self._state.conn.close()
            raise
        finally:
            self._state.setting = None
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


def _refuse_lasting(cursor: Any) -> None:
    """Refuse what would be over as soon as the statement's own transaction is."""
    if cursor.statusmessage in _LASTING:
        raise ScopeError(
            f"{cursor.statusmessage} needs a transaction under access groups, or through a pooler: "
            "open database.atomic(), or begin one with database.begin()"
        )
