"""Putting access groups in force, by the settings that this process was connected with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from collectkit import groups as access
from collectkit.database import settings_in_force
from collectkit.errors import ScopeError
from collectkit.groups import Acl
from collectkit.scope import Scope, root_in_force


@contextmanager
def acl_scope(groups: Iterable[str]) -> Iterator[None]:
    """Act under these groups, and no others, until the end of the block.

    It holds in this thread. In a generator it holds while the generator runs, not between its rows.

    Arguments:
        groups: names; none at all is a scope without groups, in which no row with access groups can be seen.

    Raises:
        NotConnected: ``connect()`` or ``setup()`` was not called yet.
    """
    scope = scope_of(groups)
    try:
        scope.open()
        yield
    finally:
        scope.close()


def set_user_acls(groups: Iterable[str]) -> None:
    """Act under these groups, and no others, for the rest of the run or request that is under way.

    An ``acl_scope`` that is open stays in force until its own end.

    Raises:
        ScopeError: there is neither a run nor a request, so nothing would ever take the groups away again.
    """
    root = root_in_force()
    if root is None:
        raise ScopeError(
            "set_user_acls() holds for the rest of a run or request, and none is under way here: "
            "say `with acl_scope(groups):`"
        )
    wanted = access.names(groups)
    root.change(wanted, access.as_setting(wanted, settings_in_force().acl_namespace))


def scope_of(groups: Iterable[str], *, root: bool = False) -> Scope:
    """Return a scope of these groups, not yet open.

    Arguments:
        root: it is that of a whole run or request, and ``set_user_acls`` changes it.
    """
    wanted = access.names(groups)
    return Scope(wanted, access.as_setting(wanted, settings_in_force().acl_namespace), root=root)


class RunScope(Scope):
    """The scope of one run: the groups of its collector's ``acl=`` and, without one, none.

    Arguments:
        declared: a level, several levels, or groups by name.

    Attributes:
        stamp: what a batch stamps rows with; nothing where there are several levels, for then rows have their own.
    """

    def __init__(self, declared: Acl | str | tuple[str, ...] | None) -> None:
        settings = settings_in_force()
        self._declared = None if declared is None else access.resolve(declared, settings)
        one_level = not isinstance(declared, tuple) or len(declared) == 1
        self.stamp = self._declared if one_level else None
        groups = frozenset[str]() if self._declared is None else self._declared.groups
        super().__init__(groups, access.as_setting(groups, settings.acl_namespace), root=True)

    def acted_under(self) -> Acl | None:
        """Return the groups that were in force so far; one that the collector did not declare may read and write."""
        if not self.acted:
            return None
        if self._declared is None:
            return Acl(self.acted, self.acted)
        others = self.acted - self._declared.groups
        return Acl((*self._declared.read, *others), (*self._declared.write, *others))


def named_acl(level: str) -> Acl:
    """Return the groups of the level ``public``, ``internal`` or ``embargo``, as the settings name them.

    Raises:
        ValueError: there is no such level.
    """
    return access.resolve(level, settings_in_force())


def group_ids(groups: Iterable[str]) -> list[UUID]:
    """Return the ids of these groups, as rows carry them in ``acl_read`` and ``acl_write``."""
    namespace = settings_in_force().acl_namespace
    return sorted(access.group_id(name, namespace) for name in access.names(groups))


def add_groups(db: Any, table: str, acl: Acl | str) -> None:
    """Give a table the columns ``acl_read`` and ``acl_write``; all rows that are there get these groups.

    For a migration of the package that has the table. It rewrites no row, however many there are.

    Arguments:
        db: what the migration is given.
        table: the table's name, as a statement writes it.
        acl: a level, or groups by name.
    """
    groups = access.resolve(acl, settings_in_force())
    for column, names in (("acl_read", groups.read), ("acl_write", groups.write)):
        ids = ",".join(map(str, group_ids(names)))
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column} uuid[] NOT NULL DEFAULT '{{{ids}}}'")
        db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT")
