"""The table of Metasploit's modules."""

from __future__ import annotations

from peewee import DateField, IntegerField, TextField
from playhouse.postgres_ext import ArrayField

from collectkit import AclModel, DateTimeTZField


class Metasploit(AclModel):
    """A module that is, or was, part of the framework; one whose ``gone_at`` is null is part of it now."""

    fullname = TextField(primary_key=True)
    name = TextField()
    aliases = ArrayField(TextField, index=False)
    type = TextField()
    rank = IntegerField(null=True)
    disclosure_date = DateField(null=True)
    author = ArrayField(TextField, index=False)
    description = TextField()
    platform = TextField()
    arch = TextField()
    path = TextField()
    refs = ArrayField(TextField, index=False)
    cve_ids = ArrayField(TextField)
    gone_at = DateTimeTZField(null=True)

    class Meta:
        served = True
