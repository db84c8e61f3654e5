"""What a declaration must not say is refused at import, each fault in a sentence."""

from __future__ import annotations

from datetime import timedelta

import periodiq
import pytest

from collectkit import collector, cron
from collectkit.broker import broker
from collectkit.errors import DeclarationError

HOURLY = cron("0 * * * *")


@pytest.fixture(autouse=True)
def forgetful():
    known = dict(broker.actors)
    yield
    broker.actors.clear()
    broker.actors.update(known)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"periodic": None}, 'it would never run: give it periodic=cron("...") or after=[...]'),
        (
            {"periodic": periodiq.cron("0 * * * *")},
            "periodic= takes collectkit.cron(...): periodiq's own specs never fire on some of their ticks",
        ),
        ({"max_attempts": 0}, "max_attempts=0: a run is tried at least once"),
        ({"deadline": timedelta(0)}, "deadline=0:00:00: a run needs some time"),
        ({"fresh_for": timedelta(0)}, "fresh_for=0:00:00: data would never be fresh"),
        (
            {"backoff": (timedelta(2), timedelta(1))},
            f"backoff={(timedelta(2), timedelta(1))}: the first wait is above zero and no longer than the longest",
        ),
    ],
)
def test_what_could_not_work_is_refused(options, fault):
    with pytest.raises(DeclarationError) as refused:
        collector(**{"periodic": HOURLY, "name": "tests.refused"} | options)(lambda _run: None)

    assert list(refused.value.faults) == [f"collector 'tests.refused': {fault}"]


def test_one_collector_to_follow_needs_no_list():
    first = collector(periodic=HOURLY, name="tests.first")(lambda _run: None)

    by_name = collector(after="tests.first", name="tests.by_name")(lambda _run: None)
    itself = collector(after=first, depends_on=first, name="tests.itself")(lambda _run: None)

    assert by_name.declared.after == ("tests.first",)
    assert (itself.declared.after, itself.declared.depends_on) == (("tests.first",), ("tests.first",))
