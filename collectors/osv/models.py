"""The table of the advisories that osv.dev gathers."""

from __future__ import annotations

from peewee import TextField
from playhouse.postgres_ext import ArrayField, BinaryJSONField

from collectkit import AclModel, DateTimeTZField


class Osv(AclModel):
    """An advisory in OSV's format; one that was withdrawn stays, ``gone_at`` marks one that is listed no longer.

    A time that nobody has filled in is null: publishers write the year 1.
    """

    id = TextField(primary_key=True)
    ecosystem = TextField(index=True)
    modified = DateTimeTZField(null=True)
    published = DateTimeTZField(null=True)
    withdrawn = DateTimeTZField(null=True)
    aliases = ArrayField(TextField)
    summary = TextField()
    severity = BinaryJSONField(index=False)
    affected = BinaryJSONField(index=False)
    gone_at = DateTimeTZField(null=True)

    class Meta:
        served = True
