"""Names as people say them: any unambiguous part of a collector's full name."""

from __future__ import annotations

from collections.abc import Sequence

from collectkit.errors import AmbiguousName, UnknownCollector


def family(name: str) -> str:
    """Return the name without its instance: ``...osv_collector[PyPI]`` belongs to ``...osv_collector``."""
    return name.partition("[")[0]


def key_of(name: str) -> str | None:
    """Return the key of an instance, ``PyPI`` of ``...osv_collector[PyPI]``; None for a collector without one."""
    _, bracket, key = name.partition("[")
    return key.removesuffix("]") if bracket else None


def resolve(part: str, names: Sequence[str]) -> list[str]:
    """Return the full names that ``part`` means: one, or all instances of one parametrised collector.

    The whole name wins over a whole segment between dots, and that over any other part of it: ``kev`` is
    ``collectors.kev.tasks.kev_collector`` even where there is a ``kevlar``. An instance goes by its key too, alone or
    behind a part of the name: ``PyPI``, ``osv[PyPI]``.

    Raises:
        UnknownCollector: it fits none.
        AmbiguousName: it fits several.
    """
    stem, bracket, key = part.partition("[")
    within = [name for name in names if name.endswith(bracket + key)] if stem and bracket else names
    exactly = [name for name in within if part == name or stem == family(name)]
    segment = [name for name in within if stem in family(name).split(".")]
    its_key = [name for name in names if name.endswith(f"[{part}]")]
    anywhere = [name for name in within if part and (stem or part) in name]
    found = exactly or segment or its_key or anywhere
    if not found:
        raise UnknownCollector(part)
    if len({family(name) for name in found}) > 1:
        raise AmbiguousName(part, found)
    return list(found)
