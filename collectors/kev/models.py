"""The table of the Known Exploited Vulnerabilities catalogue."""

from __future__ import annotations

from peewee import DateField, TextField
from playhouse.postgres_ext import ArrayField

from collectkit import AclModel, DateTimeTZField


class Kev(AclModel):
    """A vulnerability that is, or was, listed as exploited; one whose ``gone_at`` is null is listed now."""

    cve_id = TextField(primary_key=True)
    vendor_project = TextField()
    product = TextField()
    vulnerability_name = TextField()
    date_added = DateField()
    short_description = TextField()
    required_action = TextField()
    due_date = DateField()
    known_ransomware_campaign_use = TextField(null=True)
    notes = TextField()
    cwes = ArrayField(TextField, index=False)
    gone_at = DateTimeTZField(null=True)

    class Meta:
        served = True
