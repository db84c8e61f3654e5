"""The table of exploit-prediction scores."""

from __future__ import annotations

from peewee import DecimalField, TextField

from collectkit import AclModel


class _Exact(DecimalField):
    """A number with as many decimals as the source gives it: the column has no precision of its own."""

    def get_modifiers(self) -> None:  # type: ignore[override]  # as peewee.Field has it
        """Return none, so that nothing is rounded and no zeros are added."""


class Epss(AclModel):
    """How probable it is that a vulnerability is exploited within 30 days, and how many score no higher."""

    cve_id = TextField(primary_key=True)
    epss = _Exact()
    percentile = _Exact()

    class Meta:
        served = True
