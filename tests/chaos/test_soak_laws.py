"""The laws of the soak that read no database can fail: each is broken by a history that was made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.commits import Commit, every_commit_was_its_holders
from tests.chaos.dues import Standing, every_request_was_served, everything_ran_in_the_end, no_due_time_was_lost
from tests.chaos.laws import MAX_ATTEMPTS, Past
from tests.chaos.soak import Plan, Seen
from tests.chaos.soak_laws import all_was_in_time, compared

NAME = "soak.append_0"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds):
    return NOON + timedelta(seconds=seconds)


def run(fence, outcome, due, started, finished, *, attempt=1):
    due = None if due is None else at(due)
    finished = None if finished is None else at(finished)
    return Past(fence, NAME, fence, attempt, outcome, due, at(started), finished, None, None)


def served(seconds, *line):
    return every_request_was_served([(NAME, at(seconds))], {NAME: list(line)})


def lost(due, *line, ticks=True, is_held=False):
    standing = Standing(NAME, ticks, is_held, None if due is None else at(due))
    return no_due_time_was_lost([standing], {NAME: list(line)})


def test_a_request_is_served_by_the_run_that_took_its_due_time_and_the_wait_is_measured():
    service = served(5, run(1, "OK", 0, 0, 6), run(2, "OK", 5, 7, 8))

    assert service == ([], 2.0, 3.0)


def test_a_run_that_had_begun_before_serves_no_request():
    assert "never ran again" in served(5, run(1, "OK", 0, 0, 6)).broken[0]


def test_a_run_at_the_next_tick_does_not_hide_that_a_request_was_lost():
    assert "served" in served(5, run(1, "OK", 0, 0, 6), run(2, "OK", 60, 61, 62)).broken[0]


def test_a_run_without_a_due_time_serves_no_request():
    assert served(5, run(1, "OK", None, 6, 7)).broken


@pytest.mark.parametrize("outcome", ["FAILED", "LOST", "HANDED_OVER", "REVOKED", "RUNNING"])
def test_a_run_that_did_not_end_well_serves_no_request(outcome):
    finished = None if outcome == "RUNNING" else 7

    assert "none ended well" in served(5, run(1, outcome, 5, 6, finished)).broken[0]
    assert served(5, run(1, outcome, 5, 6, finished), run(2, "OK", 5, 8, 9)).broken == []


def test_the_attempt_rule_ends_a_request():
    assert served(5, run(1, "FAILED", 5, 6, 7, attempt=MAX_ATTEMPTS)).broken == []


def test_the_longest_wait_is_that_of_any_request_not_of_the_last():
    line = [run(1, "OK", 0, 50, 51), run(2, "OK", 55, 56, 57)]

    service = every_request_was_served([(NAME, at(0)), (NAME, at(55))], {NAME: line})

    assert service.longest_wait == 50


@pytest.mark.parametrize(
    ("before", "given"),
    [
        (run(1, "OK", 0, 5, 70), 60),
        (run(1, "FAILED", 0, 5, 6, attempt=1), 6.5),
        (run(1, "FAILED", 0, 5, 6, attempt=3), 8),
        (run(1, "FAILED", 0, 5, 59, attempt=3), 60),
        (run(1, "FAILED", 0, 5, 6, attempt=MAX_ATTEMPTS), 60),
        (run(1, "LOST", 0, 5, 9), 0),
        (run(1, "LOST", 0, 5, 9, attempt=MAX_ATTEMPTS), 60),
        (run(1, "HANDED_OVER", 0, 5, 9), 0),
        (run(1, "REVOKED", 0, 5, 9), 0),
    ],
)
def test_a_due_time_may_only_move_to_an_earlier_one(before, given):
    def then(due):
        return lost(120, before, run(2, "OK", due, 100, 101))

    assert then(given) == then(given - 1) == []
    assert "gave" in then(given + 0.001)[0]
    assert lost(given, before) == []
    assert "it is due at" in lost(given + 0.001, before)[0]


def test_a_scheduled_collector_at_rest_does_not_wait_for_ever():
    assert lost(None, run(1, "OK", 0, 5, 6))


def test_a_collector_that_only_follows_waits_for_a_change_but_not_after_a_failure():
    assert lost(None, run(1, "OK", 0, 5, 6), ticks=False) == []
    assert lost(None, run(1, "FAILED", 0, 5, 6), ticks=False)
    assert lost(None, run(1, "FAILED", 0, 5, 6, attempt=MAX_ATTEMPTS), ticks=False)
    assert lost(None, run(1, "LOST", 0, 5, 9), ticks=False)
    assert lost(None, run(1, "LOST", 0, 5, 9, attempt=MAX_ATTEMPTS), ticks=False)


def test_a_run_begins_at_its_due_time_or_later():
    assert lost(60, run(1, "OK", 7, 5, 6))
    assert lost(60, run(1, "OK", None, 5, 6))


def test_a_row_is_held_as_long_as_its_run_lasts():
    assert lost(None, run(1, "RUNNING", 0, 5, None), is_held=True) == []
    assert lost(60, run(1, "RUNNING", 0, 5, None))
    assert lost(60, run(1, "OK", 0, 5, 6), is_held=True)
    assert lost(60)


def test_a_good_run_of_long_ago_is_not_enough():
    standings = [Standing(NAME, ticks=True, is_held=False, due=at(60))]

    def ran(*line):
        return everything_ran_in_the_end(standings, {NAME: list(line)}, at(10))

    assert ran(run(1, "OK", 0, 5, 11))
    assert ran(run(1, "OK", 0, 5, 6), run(2, "FAILED", 10, 11, 12))
    assert ran(run(1, "OK", 0, 5, 6), run(2, "OK", 10, 11, 12)) == []


RIGHT = Commit("collectkit 7", "appended", NAME, 3, NAME, 3, is_held=True, times=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"collector": None, "fence": None},
        {"checkpointed": None, "row_fence": None, "is_held": False},
        {"checkpointed": "soak.append_1"},
        {"row_fence": 4},
        {"is_held": False},
        {"target": "event"},
        {"target": None, "row_fence": 4},
    ],
)
def test_nobody_commits_but_the_holder(wrong):
    assert every_commit_was_its_holders([RIGHT, RIGHT._replace(target=None)]) == []
    assert len(every_commit_was_its_holders([RIGHT, RIGHT._replace(**wrong)])) == 1


def test_the_same_rows_in_other_bytes_are_reported():
    assert compared([(1, 2), (3, 4)], b"1\t2\n3\t4\n") == []
    assert compared([(1, 2), (3, 4)], b"3\t4\n1\t2\n") == ["the rows are those of the source, but not the bytes"]
    assert compared([(1, 2)], b"01\t2\n") == ["the rows are those of the source, but not the bytes"]
    assert "lost" in compared([(1, 2)], b"")[0]


@pytest.mark.parametrize("what", ["longest_wait", "longest_overdue", "settled_in"])
def test_a_minute_is_too_long(what):
    plan = Plan(1, seconds=1, steps=1, per_step=1, faults={}, cuts=0)

    assert all_was_in_time(Seen(plan, **{what: 59.9})) == []
    assert len(all_was_in_time(Seen(plan, **{what: 60.0}))) == 1


@pytest.mark.parametrize("what", ["samples", "queue_samples"])
def test_what_was_seldom_looked_at_was_not_seen(what):
    plan = Plan(1, seconds=1, steps=1, per_step=1, faults={}, cuts=0)
    enough = {"took": 100.0, "samples": 50, "queue_samples": 50}

    assert all_was_in_time(Seen(plan, **enough)) == []
    assert len(all_was_in_time(Seen(plan, **(enough | {what: 49})))) == 1


def test_a_thousand_messages_may_wait():
    plan = Plan(1, seconds=1, steps=1, per_step=1, faults={}, cuts=0)

    assert all_was_in_time(Seen(plan, longest_queue=1000)) == []
    assert len(all_was_in_time(Seen(plan, longest_queue=1001))) == 1
