"""Peewee models: the base for collectors' tables, and collectkit's own tables that are not the ledger's."""

from __future__ import annotations

import peewee
from playhouse.postgres_ext import ArrayField, DateTimeTZField

from collectkit.database import database


class Model(peewee.Model):
    """The base of a collector's tables: bound to collectkit's database, named after the class, ``Kev`` is ``kev``.

    Writes outside a checkpoint are refused by the database, because nothing would fence them.
    """

    class Meta:
        database = database
        legacy_table_names = False


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
