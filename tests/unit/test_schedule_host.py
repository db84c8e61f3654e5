"""A schedule on a host whose own clock shows another zone: ticks are in UTC all the same."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from collectkit import cron


@pytest.fixture
def in_kolkata(monkeypatch):
    with monkeypatch.context() as host:
        host.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("spec", ["30 2 * * *", "0 4 * * *", "*/15 * * * *"])
@pytest.mark.parametrize("day", [datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)])
def test_every_tick_is_in_utc(in_kolkata, spec, day):
    tick = cron(spec, "Europe/Berlin").next_tick(day)

    assert tick.utcoffset() == timedelta(0)
