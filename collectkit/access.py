"""What access groups mean to a load: the groups that its rows get, and which rows of the table it may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import peewee
from psycopg import sql

from collectkit.acl import group_ids
from collectkit.groups import Acl
from collectkit.policies import may
from collectkit.scope import setting_in_force
from collectkit.staging import Stage
from collectkit.target import Target


class Access(NamedTuple):
    """Where a load may write, and what it writes of groups.

    Attributes:
        guarded: whether the table has access groups, its own or those of another.
        ours: the condition that a row ``t`` of the table may be changed.
        stamps: by column, the groups of all rows that do not bring their own.
    """

    guarded: bool
    ours: sql.Composable
    stamps: Mapping[str, sql.Composable]


def check_scope(model: type[peewee.Model], into: Target) -> None:
    """Return if the load has any chance: the table has no access groups, or some are in force.

    Raises:
        LoadError: every row would be refused.
    """
    if may("write", model, "t") is not None and not setting_in_force():
        raise into.refusal("it has access groups, and no group is in force: say acl= at the collector")


def access(model: type[peewee.Model], into: Target, staged: Stage, stamp: Acl | None) -> Access:
    """Return what access groups mean to this load.

    Arguments:
        stamp: the groups of rows that do not bring their own.

    Raises:
        LoadError: rows need groups, and neither they nor the collector have any.
    """
    ours = may("write", model, "t")
    given = {f.name for f in staged.given}
    stamps: dict[str, sql.Composable] = {}
    for field in into.groups:
        if field.name not in given:
            if stamp is None:
                raise into.refusal(f"the rows have no {field.name!r}, and the collector's acl= is not one level")
            names = stamp.read if field.name == "acl_read" else stamp.write
            stamps[field.column_name] = sql.SQL("{}::uuid[]").format(sql.Literal(group_ids(names)))
    return Access(ours is not None, sql.SQL("true" if ours is None else f"({ours})"), stamps)
