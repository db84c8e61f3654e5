"""Names as people say them: any unambiguous part of a collector's full name."""

from __future__ import annotations

from collections.abc import Sequence

from collectkit.errors import AmbiguousName, UnknownCollector


def family(name: str) -> str:
    """Return the name without its instance: ``...osv_collector[PyPI]`` belongs to ``...osv_collector``."""
    return name.partition("[")[0]


def resolve(part: str, names: Sequence[str]) -> list[str]:
    """Return the full names that ``part`` means: one, or all instances of one parametrised collector.

    The whole name wins over a whole segment between dots, and that over any other part of it: ``kev`` is
    ``collectors.kev.tasks.kev_collector`` even where there is a ``kevlar``.

    Raises:
        UnknownCollector: it fits none.
        AmbiguousName: it fits several.
    """
    exactly = [name for name in names if part in {name, family(name)}]
    segment = [name for name in names if part in family(name).split(".")]
    anywhere = [name for name in names if part and part in name]
    found = exactly or segment or anywhere
    if not found:
        raise UnknownCollector(part)
    if len({family(name) for name in found}) > 1:
        raise AmbiguousName(part, found)
    return list(found)
