"""What collectors in the common style lose by the faults that cost ours nothing; part of ``make chaos`` alone."""

from __future__ import annotations

import pytest

from tests.chaos.comparison import SIDES, compare

FAULTS = {"kill": 30, "stop": 6, "flush": 4}


def test_the_faults_that_cost_ours_nothing_cost_the_common_style_rows_or_collectors(home, scale):
    if not scale.full:
        pytest.skip("it takes minutes: make chaos")
    results = {side: compare(home / str(number), side, scale.seed, 45, FAULTS) for number, side in enumerate(SIDES)}

    print("\n| | rows missing | rows doubled | collectors stuck |\n|---|---|---|---|")
    for each in results.values():
        print(f"| {each.side} | {each.missing:,} | {each.doubled:,} | {each.stuck} of 10 |")
    assert [{fault: each.faults[fault] for fault in FAULTS} for each in results.values()] == [FAULTS] * len(SIDES)
    ours, locked, stated = results.values()
    assert (ours.missing, ours.doubled, ours.stuck) == (0, 0, 0)
    assert locked.doubled > 0
    assert stated.stuck > 0
