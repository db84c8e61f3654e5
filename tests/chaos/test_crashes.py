"""Whatever strikes a process wherever it is, no row is lost, doubled or made up, and one run commits at a time."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from fnmatch import fnmatch

from collectkit.maintenance import SWEEP_INTERVAL
from tests.chaos.cases import FAULTS, matrix, share
from tests.chaos.commands import lose_an_answer_of_a_migration, writes_of_a_migration
from tests.chaos.lane import TTL, dice
from tests.chaos.matrix import in_parallel, play_all
from tests.chaos.zombies import KINDS, PLACES, Woken, stop_and_wake

SHARE = 22
ZOMBIES = 300
# A tenth of them is to be struck while the server reads their rows.
IN_COPY = 30
# Seconds: the longest that a lease stands after its last renewal, until a sweep comes by.
LEASE_AND_SWEEP = TTL + min(SWEEP_INTERVAL.total_seconds(), TTL / 6)
# Seconds that two cores with so many processes may need besides; at worst a nudge was lost with a process that was
# stopped, and is sent again after ten.
USUAL_DELAY, LONGEST_DELAY = 2, 12


def test_every_fault_at_every_crash_point_costs_time_and_nothing_else(on, scale):
    for seed in range(scale.seed, scale.seed + (scale.seeds if scale.full else 1)):
        cases = [case for case in matrix() if fnmatch(str(case), scale.only)]
        if scale.full:
            dice(seed, "order").shuffle(cases)
        else:
            cases = share(dice(seed, "share"), SHARE)

        played = play_all(on, cases, seed, says=scale.full)
        print(summary(seed, played))

        assert played.broken == []
        assert played.not_played == []
        assert len(played.came) == len(cases) > 0


def test_whichever_answer_a_migration_loses_the_next_one_makes_all_whole(on, scale):
    random = dice(scale.seed, "migrations")
    kinds = ("drift", "fresh") if scale.full else (random.choice(("drift", "fresh")),)
    answers = deque((kind, number) for kind in kinds for number in writes_of_a_migration(on[0], kind))
    if not scale.full:
        answers = deque([random.choice(answers)])
    print(f"{len(answers)} answers to lose that say that something was written")

    def lose(lane):
        with suppress(IndexError):
            while True:
                lose_an_answer_of_a_migration(lane, *answers.popleft())

    in_parallel(on, lose)


def test_a_holder_that_wakes_up_beyond_its_lease_is_refused_and_holds_nobody_back(on, scale):
    each = ZOMBIES // len(KINDS) // len(on) + 1 if scale.full else 1
    woken = Woken()

    in_parallel(on, lambda lane: [stop_and_wake(lane, scale.seed, number, woken) for number in range(each)])

    after = sorted(woken.successor_after)
    print(f"{woken.places.total()} holders stopped and woken: {len(woken.accepted)} accepted")
    for place, words in PLACES.items():
        print(f"  {woken.places[place]:4} {place:<18} {words}")
    print(f"  {woken.in_copy:4} inside a COPY")
    for who, times in woken.refused.items():
        print(f"  {times:4} refused {who}")
    print(f"  next claim after {after[len(after) // 2]:.1f} s (median), {after[-1]:.1f} s at most")
    assert woken.places.total() == each * len(KINDS) * len(on)
    assert woken.accepted == []
    assert woken.in_copy >= IN_COPY or not scale.full
    assert len(after) == woken.places.total()
    assert after[len(after) // 2] <= LEASE_AND_SWEEP + USUAL_DELAY
    assert after[-1] <= LEASE_AND_SWEEP + LONGEST_DELAY


def summary(seed, played):
    """Return a table of the faults: how many cases, how long until all was right, how many had nothing to strike."""
    lines = [
        (
            f"seed {seed}: {len(played.came)} cases in {played.took:.0f} s, {played.runs} runs, "
            f"{played.rows} rows; broken laws: {len(played.broken)}"
        )
    ]
    for fault in FAULTS:
        came = {case: each for case, each in played.came.items() if case.fault == fault}
        times = sorted(each.seconds for each in came.values() if each.seconds is not None)
        words = [f"{len(came):4} cases"]
        if times:
            middle, most = times[len(times) // 2], times[-1]
            words.append(
                f"{len(times)} with work left, right again after {middle:.1f} s (median), {most:.1f} s at most"
            )
        words.append(f"{sum(not each.struck for each in came.values())} found nothing to strike")
        lines.append(f"  {fault:<7} {'; '.join(words)}")
    return "\n".join(lines)
