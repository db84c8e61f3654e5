"""Whatever strikes a process wherever it is, no row is lost, doubled or made up, and one run commits at a time."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatch

from tests.chaos.cases import matrix, share
from tests.chaos.lane import dice
from tests.chaos.matrix import lanes, play_all

SHARE = 40


def test_every_fault_at_every_crash_point_costs_time_and_nothing_else(home, scale):
    cases = [case for case in matrix() if fnmatch(str(case), scale.only)]
    if not scale.full:
        cases = share(dice(scale.seed, "share"), SHARE)

    with lanes(home, 8 if scale.full else 5) as on:
        for seed in range(scale.seed, scale.seed + (scale.seeds if scale.full else 1)):
            dice(seed, "order").shuffle(cases)
            played = play_all(on, cases, seed, says=scale.full)
            print(summary(seed, played))

            assert not played.broken


def summary(seed, played):
    """Return a table of the faults: how many cases, and how long until all was right."""
    lines = [
        (
            f"seed {seed}: {len(played.seconds)} cases in {played.took:.0f} s, {played.runs} runs, "
            f"{played.rows} rows; broken laws: {len(played.broken)}"
        )
    ]
    for fault in sorted(Counter(case.fault for case in played.seconds)):
        times = sorted(seconds for case, seconds in played.seconds.items() if case.fault == fault)
        middle, most = times[len(times) // 2], times[-1]
        lines.append(
            f"  {fault:<7} {len(times):4} cases; right again after {middle:.1f} s (median), {most:.1f} s at most"
        )
    return "\n".join(lines)
