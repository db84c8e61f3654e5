"""Peewee models: the base for collectors' tables, and collectkit's own tables that are not the ledger's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import peewee
from playhouse.postgres_ext import ArrayField, DateTimeTZField

from collectkit.acl import group_ids
from collectkit.database import database


class Model(peewee.Model):
    """The base of a collector's tables: bound to collectkit's database, named after the class, ``Kev`` is ``kev``.

    Writes outside a checkpoint are refused by the database, because nothing would fence them.
    """

    class Meta:
        database = database
        legacy_table_names = False


class GroupsField(ArrayField):  # type: ignore[misc]  # playhouse has no types
    """Ids of access groups; takes names as well."""

    def __init__(self, **options: Any) -> None:
        super().__init__(peewee.UUIDField, **options)

    def db_value(self, value: Any) -> Any:
        """Turn names into ids, in one order, so that the same groups are the same value."""
        if value is None or isinstance(value, peewee.Node):
            return value
        if isinstance(value, str):
            raise TypeError("groups are a list of names")
        named = group_ids([each for each in value if not isinstance(each, UUID)])
        return sorted({*named, *(each for each in value if isinstance(each, UUID))})


class AclModel(Model):
    """The base of tables whose rows not everybody may see: each row has groups that may read, and that may write it.

    ``migrate`` gives the table row security, so that PostgreSQL shows and changes only rows of the groups in force,
    whoever asks and however. A batch stamps rows with the ``acl=`` of its collector, unless they have groups of their
    own: names or ids.
    """

    acl_read = GroupsField()
    acl_write = GroupsField()


class Account(Model):
    """Somebody who may ask the service for a token; the password is kept as an argon2 hash only."""

    name = peewee.TextField(primary_key=True)
    password = peewee.TextField()
    groups = ArrayField(peewee.TextField, index=False, default=list)
    scopes = ArrayField(peewee.TextField, index=False, default=list)
    created_at = DateTimeTZField(constraints=[peewee.SQL("DEFAULT clock_timestamp()")])

    class Meta:
        schema = "collectkit"
        table_name = "account"


class Audit(Model):
    """What a person or a service asked of a collector: who, when, what and why."""

    id = peewee.BigAutoField()
    at = DateTimeTZField(constraints=[peewee.SQL("DEFAULT clock_timestamp()")])
    by = peewee.TextField()
    action = peewee.TextField()
    collector = peewee.TextField(null=True)
    note = peewee.TextField(null=True)

    class Meta:
        schema = "collectkit"
        table_name = "audit"
