from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from dramatiq.middleware import Interrupt
from dramatiq.middleware.threading import raise_thread_exception

from collectkit import RateLimit

HOUR = timedelta(hours=1)


def exhausted() -> RateLimit:
    limit = RateLimit(1, HOUR)
    with limit.request():
        pass
    return limit


def test_no_stretch_of_the_length_holds_more_requests_than_the_limit_whichever_threads_make_them():
    limit = RateLimit(5, timedelta(seconds=0.2))
    begun: list[float] = []

    def ask() -> None:
        for _ in range(5):
            with limit.request():
                begun.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    begun.sort()
    assert len(begun) == 20
    assert all(sixth - first > 0.19 for first, sixth in zip(begun, begun[5:], strict=False))


def test_the_first_requests_up_to_the_limit_do_not_wait():
    limit = RateLimit(5, HOUR)

    for _ in range(5):
        with limit.request(give_up=time.monotonic()):
            pass


def test_a_request_counts_from_the_begin_of_its_answer_on():
    limit = RateLimit(1, timedelta(seconds=0.2))

    with limit.request():
        time.sleep(0.15)
        answered = time.monotonic()
    with limit.request():
        begun = time.monotonic()

    assert begun - answered > 0.19


def test_a_request_that_failed_counts():
    limit = RateLimit(1, HOUR)

    with pytest.raises(ConnectionError), limit.request():
        raise ConnectionError

    with pytest.raises(TimeoutError), limit.request(give_up=time.monotonic() + 1):
        pass


def test_a_turn_that_will_not_come_in_time_is_said_at_once():
    limit = exhausted()
    began = time.monotonic()

    with pytest.raises(TimeoutError, match="no turn came under a request limit of 1 in 3600 s"):
        limit.request(give_up=began + 60).__enter__()

    assert time.monotonic() - began < 30


def test_an_interrupt_reaches_a_thread_that_waits_for_its_turn():
    limit = exhausted()
    waiting, interrupted = threading.Event(), threading.Event()

    def ask() -> None:
        try:
            waiting.set()
            limit.request().__enter__()
        except Interrupt:
            interrupted.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    waiting.wait(60)
    raise_thread_exception(thread.ident, Interrupt)

    assert interrupted.wait(60)


@pytest.mark.parametrize(("requests", "per"), [(0, HOUR), (5, timedelta(0)), (5, -HOUR)])
def test_a_limit_that_lets_nothing_through_is_refused(requests, per):
    with pytest.raises(ValueError, match="lets no request through"):
        RateLimit(requests, per)
