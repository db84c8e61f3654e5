"""The table of the CVE List."""

from __future__ import annotations

from peewee import TextField
from playhouse.postgres_ext import BinaryJSONField

from collectkit import AclModel, DateTimeTZField


class Cvelist(AclModel):
    """A CVE record as its numbering authority wrote it; one whose ``gone_at`` is not null has no file any more.

    A record that was withdrawn stays, with the state ``REJECTED`` and the reason as its description.
    """

    cve_id = TextField(primary_key=True)
    state = TextField()
    assigner = TextField()
    date_published = DateTimeTZField(null=True)
    date_updated = DateTimeTZField(null=True)
    title = TextField(null=True)
    description = TextField(null=True)
    affected = BinaryJSONField(index=False)
    gone_at = DateTimeTZField(null=True)

    class Meta:
        served = True
