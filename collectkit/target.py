"""The table that rows go to: what its model declares, and what PostgreSQL's catalog says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import peewee
import psycopg
from psycopg import sql

from collectkit.errors import LoadError

Field: TypeAlias = peewee.Field
Key: TypeAlias = str | Field | Sequence[str | Field]

# Types without an equality that could tell a changed value from an equal one, and what is compared in their place.
_COMPARED_AS = {
    "json": "jsonb", "_json": "jsonb[]", "xml": "text", "citext": "text", "interval": "text", "jsonpath": "text",
    "point": "text", "line": "text", "lseg": "text", "box": "text", "path": "text", "polygon": "text", "circle": "text",
}  # fmt: skip
_COLUMNS = """
SELECT a.attname, a.attnotnull, base.typname
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type base ON base.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
 WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
# What ON CONFLICT (key) can rely on: whole-table uniqueness, enforced at once, of exactly these columns.
_IS_UNIQUE = """
SELECT EXISTS (
  SELECT FROM pg_index i
   WHERE i.indrelid = to_regclass(%(table)s) AND i.indisunique AND i.indimmediate AND i.indisvalid
     AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(%(key)s::text[])
     AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) n
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n]
                      WHERE a.attname <> ALL (%(key)s::text[])))
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A table that rows are loaded into.

    Attributes:
        name: as messages name it.
        table: as statements name it.
        fields: the model's fields in the order of their declaration.
        key: the fields whose values tell one row from another.
        gone_at: the field that marks rows which the source no longer lists, if the model has one.
        groups: the fields that hold a row's access groups, if the model has them.
        not_null: the names of the columns that take no NULL.
        types: the type of each column, by its name in the catalog.
    """

    name: str
    table: sql.Identifier
    fields: Mapping[str, Field]
    key: tuple[Field, ...]
    gone_at: Field | None
    groups: tuple[Field, ...]
    not_null: frozenset[str]
    types: Mapping[str, str]

    def declared(self) -> list[Field]:
        """Return the fields that a row without names fills, in order: not those that fill themselves."""
        # By name: fields of Peewee build a condition when they are compared.
        others = {f.name for f in (self.gone_at, *self.groups) if f is not None}
        return [f for f in self.fields.values() if not (f.auto_increment or f.sequence) and f.name not in others]

    def compared(self, table: str, field: Field) -> sql.Composable:
        """Return the field's column of ``table`` in a form that can be compared."""
        column = sql.Identifier(table, field.column_name)
        other = _COMPARED_AS.get(self.types[field.column_name])
        return column if other is None else sql.SQL("{}::{}").format(column, sql.SQL(other))

    def part(self, table: str, values: Mapping[str, object]) -> sql.Composable:
        """Return the condition that a row of ``table`` has these values; always true without any.

        Raises:
            LoadError: one of them is no field's.
        """
        if unknown := values.keys() - self.fields.keys():
            raise self.refusal(f"within={min(unknown)!r} is no field of the model ({', '.join(self.fields)})")
        same = [
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(
                sql.Identifier(table, self.fields[name].column_name), sql.Literal(self.fields[name].db_value(value))
            )
            for name, value in values.items()
        ]
        return sql.SQL(" AND ").join(same) if same else sql.SQL("true")

    def refusal(self, reason: str, row: int | None = None, column: str | None = None) -> LoadError:
        """Return the error that says what is wrong, and where."""
        where = [f"row {row}"] if row else []
        where += [f"column {column!r}"] if column else []
        return LoadError(self.name, f"{', '.join(where)}: {reason}" if where else reason)


def target(connection: psycopg.Connection[Any], model: type[peewee.Model], key: Key | None) -> Target:
    """Return what there is to know about the table of ``model`` before rows are loaded by ``key``.

    Raises:
        LoadError: the key names no field, or no unique one; the table or a column of the model is missing.
    """
    meta = model._meta  # noqa: SLF001 - Peewee's documented way to what a model declares
    table = sql.Identifier(*filter(None, (meta.schema, meta.table_name)))
    name = ".".join(filter(None, (meta.schema, meta.table_name)))
    fields = {f.name: f for f in sorted(meta.fields.values(), key=lambda f: f._order)}  # noqa: SLF001
    key_fields = _key_fields(name, model, fields, key)

    qualified = table.as_string(connection)
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        catalog = cursor.execute(_COLUMNS, [qualified]).fetchall()
        if lacking := {f.column_name for f in fields.values()} - {column for column, _, _ in catalog}:
            what = f"has no column {min(lacking)!r}" if catalog else "does not exist"
            raise LoadError(name, f"the table {what}: run `collectkit migrate`")
        key_columns = [f.column_name for f in key_fields]
        if cursor.execute(_IS_UNIQUE, {"table": qualified, "key": key_columns}).fetchone() != (True,):
            raise LoadError(name, f"the key ({', '.join(key_columns)}) has no unique index: give it one in a migration")
    return Target(
        name=name,
        table=table,
        fields=fields,
        key=key_fields,
        gone_at=fields.get("gone_at"),
        groups=tuple(fields[name] for name in ("acl_read", "acl_write") if name in fields),
        not_null=frozenset(column for column, not_null, _ in catalog if not_null),
        types={column: type_name for column, _, type_name in catalog},
    )


def _key_fields(
    table: str, model: type[peewee.Model], fields: Mapping[str, Field], key: Key | None
) -> tuple[Field, ...]:
    if key is None:
        primary: tuple[Field, ...] = model._meta.get_primary_keys() if model._meta.primary_key else ()  # noqa: SLF001
        if not primary or any(f.auto_increment for f in primary):
            raise LoadError(table, f"{model.__name__} has no key of the source's own: say key=, the field that is it")
        return primary
    wanted = [key] if isinstance(key, (str, peewee.Field)) else list(key)
    names = [f if isinstance(f, str) else f.name for f in wanted]
    unknown = [name for name in names if name not in fields]
    if unknown or not names:
        raise LoadError(table, f"key={unknown or names!r} is no field of {model.__name__} ({', '.join(fields)})")
    return tuple(fields[name] for name in names)
