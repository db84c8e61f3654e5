from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectkit.windows import Window, windows

HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def test_windows_follow_each_other_and_the_last_is_cut_at_the_end():
    found = list(windows(NOON, NOON + timedelta(hours=2, minutes=30), HOUR))

    assert found == [
        Window(NOON, NOON + HOUR),
        Window(NOON + HOUR, NOON + 2 * HOUR),
        Window(NOON + 2 * HOUR, NOON + timedelta(hours=2, minutes=30)),
    ]


def test_a_stretch_that_the_size_divides_has_no_empty_last_window():
    assert [window.end for window in windows(NOON, NOON + 2 * HOUR, HOUR)] == [NOON + HOUR, NOON + 2 * HOUR]


def test_a_stretch_shorter_than_the_size_is_one_window():
    assert list(windows(NOON, NOON + HOUR, timedelta(days=120))) == [Window(NOON, NOON + HOUR)]


def test_the_overlap_is_taken_once_at_the_start():
    found = list(windows(NOON, NOON + HOUR, HOUR, overlap=timedelta(minutes=10)))

    split = NOON + timedelta(minutes=50)
    assert found == [Window(NOON - timedelta(minutes=10), split), Window(split, NOON + HOUR)]


def test_an_overlap_alone_is_asked_for_again():
    assert list(windows(NOON, NOON, HOUR, overlap=HOUR)) == [Window(NOON - HOUR, NOON)]


@pytest.mark.parametrize("until", [NOON, NOON - HOUR])
def test_nothing_lies_between_a_start_and_an_end_that_is_not_after_it(until):
    assert list(windows(NOON, until, HOUR)) == []


def test_an_overlap_that_ends_before_it_begins_is_nothing():
    assert list(windows(NOON, NOON - 2 * HOUR, HOUR, overlap=HOUR)) == []


def test_a_window_unpacks_into_its_start_and_end():
    [(start, end)] = windows(NOON, NOON + HOUR, HOUR)

    assert (start, end) == (NOON, NOON + HOUR)


@pytest.mark.parametrize(
    ("day", "hours"), [(datetime(2026, 3, 29, tzinfo=BERLIN), 23), (datetime(2026, 10, 25, tzinfo=BERLIN), 25)]
)
def test_sizes_are_time_that_passes_when_clocks_change(day, hours):
    found = list(windows(day, day + timedelta(days=1), HOUR))

    assert len(found) == hours
    assert {window.end - window.start for window in found} == {HOUR}


def test_an_hour_that_clocks_show_twice_is_a_window():
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)

    assert list(windows(first, first.replace(fold=1), HOUR)) == [
        Window(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    ]


def test_windows_are_in_utc_whatever_zone_was_given():
    [window] = windows(NOON.astimezone(BERLIN), (NOON + HOUR).astimezone(BERLIN), HOUR)

    assert (window.start.tzinfo, window.end.tzinfo) == (UTC, UTC)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((NOON.replace(tzinfo=None), NOON, HOUR), "since .* has no time zone: give an aware datetime"),
        ((NOON, NOON.replace(tzinfo=None), HOUR), "until .* has no time zone: give an aware datetime"),
        ((NOON, NOON, timedelta(0)), "size 0:00:00 is not positive"),
        ((NOON, NOON, -HOUR), "size .* is not positive"),
        ((NOON, NOON, HOUR, -HOUR), "overlap .* is negative"),
    ],
)
def test_a_fault_is_raised_at_the_call_and_not_at_the_first_window(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        windows(*arguments)


def test_a_window_may_end_where_time_does():
    last = datetime.max.replace(tzinfo=UTC)

    assert list(windows(last - HOUR, last, timedelta(days=1))) == [Window(last - HOUR, last)]


@given(
    since=st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    stretch=st.timedeltas(-timedelta(days=9), timedelta(days=90)),
    size=st.timedeltas(timedelta(hours=20), timedelta(days=120)),
    overlap=st.timedeltas(timedelta(0), timedelta(days=9)),
)
def test_windows_cover_the_stretch_without_gap_or_overlap(since, stretch, size, overlap):
    until = since + stretch

    found = list(windows(since, until, size, overlap))

    if until <= since - overlap:
        assert found == []
    else:
        assert (found[0].start, found[-1].end) == (since - overlap, until)
        assert all(a.end == b.start for a, b in pairwise(found))
        assert all(window.end - window.start == size for window in found[:-1])
        assert timedelta(0) < found[-1].end - found[-1].start <= size
