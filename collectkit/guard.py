"""The guard: whether row security holds for this role and these tables, what would mend it, and mending it.

What a policy should say is not compared as text, for PostgreSQL writes it down in its own way: the same policies are
made on a temporary table, which is rolled back, and what PostgreSQL says of both is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import peewee
import psycopg

from collectkit.database import ledger_db
from collectkit.errors import DatabaseUnavailable, DeclarationError, UnsafeRole, UnsafeTables
from collectkit.policies import Protected, protected, quoted, with_owners
from collectkit.scoped import ROLE

_TABLE: Final = """
SELECT c.relrowsecurity, c.relforcerowsecurity,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped),
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_am m ON m.oid = x.relam AND m.amname = 'gin'
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
              WHERE i.indrelid = c.oid)
  FROM pg_class c WHERE c.oid = to_regclass(%s)
"""
_POLICIES: Final = """
SELECT polname::text, polcmd::text, polpermissive, polroles = '{0}',
       pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
  FROM pg_policy WHERE polrelid = to_regclass(%s)
"""


class _Fault(NamedTuple):
    what: str
    cure: str
    ours: bool = True


def refuse_unsafe(models: Iterable[type[peewee.Model]]) -> None:
    """Return if row security holds for this role and for the tables of these models; ask before they are used.

    Raises:
        UnsafeRole: the role is a superuser or has BYPASSRLS.
        UnsafeTables: a table's row security is missing or was changed; every fault is named, with what mends it.
        DeclarationError: a model says of its groups what cannot be.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    unsafe = role_fault()
    if unsafe is not None:
        raise unsafe
    faults = table_faults(protected(with_owners(models)))
    if faults:
        raise UnsafeTables(faults)


def role_fault() -> UnsafeRole | None:
    """Return what is wrong with the role that this process connects as, None if row security holds for it."""
    name, superuser, bypasses, bootstrap = ledger_db.read(ROLE)[0]
    return UnsafeRole(name, superuser=superuser, bootstrap=bootstrap) if superuser or bypasses else None


def table_faults(tables: Iterable[Protected]) -> list[str]:
    """Return what is wrong with these tables' row security, one line each, with the statement that mends it."""
    ledger_db.read("SELECT")  # a connection that has died is noticed here, and another one opened
    try:
        with ledger_db.connection().cursor() as cursor:
            return [f"table {each.table}: {what}: {cure}" for each in tables for what, cure, _ in _faults(cursor, each)]
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the access groups' tables cannot be looked at: {error}") from error


def secure(cursor: psycopg.Cursor[Any], each: Protected) -> list[str]:
    """Give the table what it lacks of row security and indexes; return what was done.

    A policy that somebody else has made is left alone: ``table_faults`` names it, and a person decides.

    Arguments:
        cursor: of a connection with a transaction open.
    """
    faults = _faults(cursor, each)
    for fault in faults:
        if fault.ours:
            cursor.execute(fault.cure, prepare=False)
    done = [f"secured table {each.table}"] if any(fault.ours for fault in faults) else []
    for column in _unindexed(cursor, each):
        cursor.execute(f"CREATE INDEX ON {each.table} USING gin ({column})", prepare=False)
        done.append(f"indexed {column} of table {each.table}")
    return done


def _faults(cursor: psycopg.Cursor[Any], each: Protected) -> list[_Fault]:
    row = cursor.execute(_TABLE, [each.table]).fetchone()
    if row is None:
        return []  # nothing can leak from it
    enabled, forced, columns, _ = row
    if lacking := [column for column in each.columns if column not in columns]:
        message = f"table {each.table} has no {' and no '.join(lacking)}: add it in a migration of its package, with "
        raise DeclarationError([f"{message}collectkit.add_groups(db, {each.model.__name__!r}, acl)"])
    faults = []
    if not enabled:
        faults.append(_Fault("row security is off", f"ALTER TABLE {each.table} ENABLE ROW LEVEL SECURITY"))
    if not forced:
        faults.append(
            _Fault("row security does not hold for its owner", f"ALTER TABLE {each.table} FORCE ROW LEVEL SECURITY")
        )
    found = _read(cursor, each.table)
    wanted = _likeness(cursor, each)
    for name, create in each.policies(each.table).items():
        if name not in found:
            faults.append(_Fault(f"policy {name} is missing", create))
        elif found[name] != wanted[name]:
            faults.append(_Fault(f"policy {name} was changed", f"DROP POLICY {name} ON {each.table}; {create}"))
    for name, (_, permissive, *_) in found.items():
        if permissive and name not in wanted:
            cure = f"DROP POLICY {quoted(name)} ON {each.table}"
            faults.append(_Fault(f"policy {name!r} lets through what ours do not", cure, ours=False))
    return faults


def _read(cursor: psycopg.Cursor[Any], table: str) -> dict[str, tuple[Any, ...]]:
    return {name: described for name, *described in cursor.execute(_POLICIES, [table]).fetchall()}


def _likeness(cursor: psycopg.Cursor[Any], each: Protected) -> dict[str, tuple[Any, ...]]:
    """Return the table's policies as PostgreSQL would describe them if they are as they should be."""
    alike = f"pg_temp.{each.name}"
    create = "; ".join([f"CREATE TEMP TABLE {each.name} (LIKE {each.table})", *each.policies(alike).values()])
    with cursor.connection.transaction(force_rollback=True):
        cursor.execute(create, prepare=False)
        return _read(cursor, alike)


def _unindexed(cursor: psycopg.Cursor[Any], each: Protected) -> list[str]:
    row = cursor.execute(_TABLE, [each.table]).fetchone()
    return [] if row is None else [column for column in each.columns if column not in row[3]]
