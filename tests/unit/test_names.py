"""Names as people say them."""

from __future__ import annotations

import pytest

from collectkit.errors import AmbiguousName, UnknownCollector
from collectkit.names import resolve

KEV = "collectors.kev.tasks.kev_collector"
KEVLAR = "collectors.kevlar.tasks.kevlar_collector"
OSV = [f"collectors.osv.tasks.osv_collector[{key}]" for key in ("PyPI", "Go", "crates.io", "GoLand")]
ALL = [KEV, KEVLAR, *OSV]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (KEV, [KEV]),
        ("kev", [KEV]),
        ("kev_collector", [KEV]),
        ("kevl", [KEVLAR]),
        ("osv", OSV),
        ("collectors.osv.tasks.osv_collector", OSV),
        ("Go", OSV[1:2]),
        ("crates", OSV[2:3]),
        ("crates.io", OSV[2:3]),
        ("[crates.io]", OSV[2:3]),
        ("osv[crates.io]", OSV[2:3]),
        ("osv_collector[Go]", OSV[1:2]),
        ("os[Go]", OSV[1:2]),
        (OSV[2], OSV[2:3]),
        ("osv[Go", []),
        ("kev[Go]", []),
        ("osv[]", []),
    ],
)
def test_any_unambiguous_part_will_do(part, found):
    try:
        assert resolve(part, ALL) == found
    except UnknownCollector:
        assert found == []


def test_what_fits_none_or_several_is_refused_with_the_candidates():
    with pytest.raises(UnknownCollector):
        resolve("nobody", ALL)
    with pytest.raises(UnknownCollector):
        resolve("", ALL)
    with pytest.raises(AmbiguousName, match="say more of it"):
        resolve("collector", ALL)
