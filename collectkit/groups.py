"""Access groups: their names, the ids that the database knows them by, and the pair that a row carries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import Any, Final

from collectkit.settings import Settings

LEVELS: Final = ("public", "internal", "embargo")


@dataclass(frozen=True, slots=True, init=False)
class Acl:
    """Groups that may read rows, and groups that may write them.

    As ``acl=`` of a collector it is both the groups that a run acts under and what it stamps rows with.

    Attributes:
        read: names, sorted.
        write: names, sorted.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]

    def __init__(self, read: Iterable[str], write: Iterable[str]) -> None:
        """Take the names in any order.

        Raises:
            ValueError: one of the two is empty.
            TypeError: it is a single text, or holds something else than names.
        """
        # Frozen, and given any iterable: there is no other way to set the fields.
        object.__setattr__(self, "read", tuple(sorted(names(read))))
        object.__setattr__(self, "write", tuple(sorted(names(write))))
        if not self.read or not self.write:
            raise ValueError("a row that no group may read, or none may write, is out of everybody's reach: name one")

    @property
    def groups(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.read, *self.write))

    def __or__(self, other: Acl) -> Acl:
        """Return the groups of both."""
        return Acl((*self.read, *other.read), (*self.write, *other.write))


def resolve(acl: Acl | str | Sequence[str], settings: Settings) -> Acl:
    """Return the groups that ``acl=`` means: those of a level as the settings name them, of several levels together.

    Raises:
        ValueError: a level is none, or no level is named.
    """
    if isinstance(acl, Acl):
        return acl
    levels = [acl] if isinstance(acl, str) else list(acl)
    unknown = [name for name in levels if name not in LEVELS]
    if unknown or not levels:
        raise ValueError(f"acl={acl!r} is no level: there are {', '.join(LEVELS)}, and Acl(read=[...], write=[...])")
    each = [Acl(getattr(settings, f"{name}_read_groups"), getattr(settings, f"{name}_write_groups")) for name in levels]
    return reduce(or_, each)


def names(groups: Iterable[str]) -> frozenset[str]:
    """Return the names as a set.

    Raises:
        TypeError: it is a single text, whose letters would each be a group, or holds something else than names.
    """
    if isinstance(groups, str):
        raise TypeError(f"groups are a list of names: [{groups!r}]")
    found: frozenset[Any] = frozenset(groups)
    for name in found:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a group has a name, and {name!r} is none")
    return found


@lru_cache(maxsize=1024)
def group_id(name: str, namespace: str) -> uuid.UUID:
    """Return the id of a group."""
    return uuid.uuid5(uuid.NAMESPACE_URL, namespace + name)


@lru_cache(maxsize=1024)
def as_setting(groups: frozenset[str], namespace: str) -> str:
    """Return the groups as the database's setting ``collectkit.acl`` has them: their ids, with commas between."""
    return ",".join(sorted(str(group_id(name, namespace)) for name in groups))
