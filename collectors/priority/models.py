"""The table that says what to fix first."""

from __future__ import annotations

from peewee import DecimalField, IntegerField, TextField

from collectkit import AclModel, DateTimeTZField


class Priority(AclModel):
    """A CVE's place among all, 1 the most urgent, and why; see ``ranking`` for the formula.

    The ``..._until`` are the watermarks of the tables that the row was made from. They move with the row: one that a
    newer state of these tables would make just the same keeps those it has.
    """

    cve_id = TextField(primary_key=True)
    rank = IntegerField()
    score = DecimalField(max_digits=10, decimal_places=6)
    why = TextField()
    kev_until = DateTimeTZField()
    epss_until = DateTimeTZField()
    nvd_until = DateTimeTZField()

    class Meta:
        served = True
        # Whatever gets in or moves up shifts the ranks below it. No index has a rank, so a row that finds room beside
        # its old version costs no index anything.
        table_settings = ("WITH (fillfactor = 50)",)
