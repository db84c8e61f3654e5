"""The table of the National Vulnerability Database."""

from __future__ import annotations

from peewee import DecimalField, TextField
from playhouse.postgres_ext import ArrayField

from collectkit import AclModel, DateTimeTZField


def _score() -> DecimalField:
    return DecimalField(max_digits=3, decimal_places=1, null=True)


class Nvd(AclModel):
    """A CVE as NVD describes it; one that was rejected stays, with the status ``Rejected`` and without scores."""

    cve_id = TextField(primary_key=True)
    status = TextField()
    published = DateTimeTZField()
    last_modified = DateTimeTZField()
    description = TextField()
    cvss_v2_score = _score()
    cvss_v2_vector = TextField(null=True)
    cvss_v30_score = _score()
    cvss_v30_vector = TextField(null=True)
    cvss_v31_score = _score()
    cvss_v31_vector = TextField(null=True)
    cvss_v40_score = _score()
    cvss_v40_vector = TextField(null=True)
    weaknesses = ArrayField(TextField, index=False)

    class Meta:
        served = True
