"""Tables that the service shows: models that say ``served = True`` in their ``Meta``, written down by ``migrate``.

With each stands a seal, which is what row security looked like when ``migrate`` had seen to it. As long as the seal
holds, the rows may be shown; whoever changes a policy by hand breaks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import peewee

from collectkit.database import ledger_db, settings_in_force

# Of the table itself, and of those that its policies ask: who sees their rows sees its rows.
_SEAL: Final = """
(WITH RECURSIVE asked (id) AS (
   SELECT to_regclass(quote_ident({schema}) || '.' || quote_ident({name}))::oid
   UNION
   SELECT d.refobjid FROM asked JOIN pg_policy p ON p.polrelid = asked.id
     JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass)
 SELECT md5(string_agg(concat_ws(' ', c.relname, c.relrowsecurity, c.relforcerowsecurity,
            (SELECT string_agg(concat_ws(' ', p.polname, p.polcmd, p.polpermissive, p.polroles::text,
                                         pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
                               ';' ORDER BY p.polname)
               FROM pg_policy p WHERE p.polrelid = c.oid)), ';' ORDER BY c.oid))
   FROM asked JOIN pg_class c ON c.oid = asked.id)
"""
# The role too may be changed under connections that are open already.
_IS_SAFE: Final = "(SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user)"
_FIND: Final = f"""
SELECT name, schema, key, columns,
       coalesce(seal = {_SEAL.format(schema="s.schema", name="s.name")}, false) AND {_IS_SAFE}
  FROM collectkit.served s WHERE name = %(name)s
"""
_STORED: Final = "SELECT name, package FROM collectkit.served"
_WRITE: Final = f"""
INSERT INTO collectkit.served AS s (name, package, schema, key, columns, seal)
VALUES (%(name)s, %(package)s, %(schema)s, %(key)s::text[], %(columns)s::text[],
        CASE WHEN %(safe)s THEN {_SEAL.format(schema="%(schema)s", name="%(name)s")} END)
ON CONFLICT (name) DO UPDATE SET package = excluded.package, schema = excluded.schema, key = excluded.key,
  columns = excluded.columns, seal = excluded.seal
WHERE (s.package, s.schema, s.key, s.columns, s.seal)
      IS DISTINCT FROM (excluded.package, excluded.schema, excluded.key, excluded.columns, excluded.seal)
RETURNING name
"""
_FORGET: Final = "DELETE FROM collectkit.served WHERE name = %(name)s"


class Served(msgspec.Struct, frozen=True):
    """A table that the service shows.

    Attributes:
        name: as callers say it, which is the table's own.
        schema: where it is.
        key: the columns of the primary key.
        columns: what is shown of a row; its access groups are not.
        sealed: whether its row security is what it was when ``migrate`` saw to it, and holds for this role.
    """

    name: str
    schema: str
    key: list[str]
    columns: list[str]
    sealed: bool


def find_served(name: str) -> Served | None:
    """Return the table of that name if it is served."""
    settings_in_force()
    rows = ledger_db.read(_FIND, {"name": name})
    return Served(*rows[0]) if rows else None


def is_served(model: type[peewee.Model]) -> bool:
    """Tell whether the model says that the service may show its table."""
    return bool(getattr(model._meta, "served", False))  # noqa: SLF001 - Peewee's documented way to what a model declares


def write_served(models: Mapping[type[peewee.Model], str], unsafe: set[type[peewee.Model]]) -> list[str]:
    """Write down these models' tables as served, where that differs; return what was done, one line each.

    Arguments:
        models: with the package that each belongs to.
        unsafe: those whose row security somebody has to mend first; they are written down without a seal.
    """
    done = []
    for model, package in models.items():
        meta: Any = model._meta  # noqa: SLF001 - see above
        row = {
            "name": meta.table_name,
            "package": package,
            "schema": meta.schema or "public",
            "key": [field.column_name for field in meta.get_primary_keys()],
            "columns": [f.column_name for f in meta.sorted_fields if f.name not in {"acl_read", "acl_write"}],
            "safe": model not in unsafe,
        }
        done += [f"serving table {name}" for (name,) in ledger_db.run(_WRITE, row)]
    return done


def forget_served(packages: Iterable[str], kept: set[str]) -> list[str]:
    """Serve no longer what these packages, and those below them, do not name any more; return what was done."""
    below = tuple(f"{package}." for package in packages)
    gone = [name for name, package in ledger_db.read(_STORED) if name not in kept and f"{package}.".startswith(below)]
    for name in gone:
        ledger_db.run(_FORGET, {"name": name})
    return [f"no longer serving table {name}" for name in gone]
