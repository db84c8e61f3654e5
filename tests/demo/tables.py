"""The collectors' tables as a service reads them: in this process, under the access groups of a caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peewee import SQL

from collectkit import AclModel, acl_scope
from collectors.cvelist.models import Cvelist
from collectors.epss.models import Epss
from collectors.exploitdb.models import Exploitdb
from collectors.kev.models import Kev
from collectors.metasploit.models import Metasploit
from collectors.nvd.models import Nvd
from collectors.osv.models import Osv
from collectors.priority.models import Priority

GROUPS = ("public",)
MODELS: dict[str, type[AclModel]] = {
    "cvelist": Cvelist,
    "epss": Epss,
    "exploitdb": Exploitdb,
    "kev": Kev,
    "metasploit": Metasploit,
    "nvd": Nvd,
    "osv": Osv,
    "priority": Priority,
}

Rows = dict[Any, str]
"""A digest of each row that is not marked as gone, by its key."""


@dataclass(frozen=True)
class Difference:
    """What became of a table's rows; ``untouched`` were not written."""

    rows: int
    new: int
    changed: int
    gone: int

    @classmethod
    def between(cls, before: Rows, after: Rows) -> Difference:
        """Compare row by row, whatever the runs say that they did."""
        changed = sum(before[key] != digest for key, digest in after.items() if key in before)
        return cls(len(after), len(after.keys() - before.keys()), changed, len(before.keys() - after.keys()))

    @property
    def untouched(self) -> int:
        """The rows that stand as they did."""
        return self.rows - self.new - self.changed


def rows_of(name: str) -> Rows:
    """Return what the table of a collector holds."""
    model = MODELS[name]
    query = model.select(model._meta.primary_key, SQL("md5(t1::text)"))
    if hasattr(model, "gone_at"):
        query = query.where(model.gone_at.is_null())
    with acl_scope(GROUPS):
        return dict(query.tuples())


def first_ten() -> list[Priority]:
    """Return what to fix first."""
    with acl_scope(GROUPS):
        return list(Priority.select().order_by(Priority.rank).limit(10))


def all_ranks() -> dict[str, int]:
    """Return the place of each CVE."""
    with acl_scope(GROUPS):
        return dict(Priority.select(Priority.cve_id, Priority.rank).tuples())
