"""An interrupt of a thread leaves no lock taken behind it, and reaches a thread that waits."""

from __future__ import annotations

import logging
import sys
import threading
import time

import pytest
from dramatiq.middleware import Interrupt

from collectkit.interrupts import call_back, interrupt

INTERRUPTS = 100


class Victim(threading.Thread):
    """Does something over and over, and counts how often it is interrupted in it."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act = act
        self.interrupted = 0
        self.over = False

    def run(self):
        while not self.over:
            try:
                while not self.over:
                    self.act()
            except Interrupt:
                self.interrupted += 1

    def end(self):
        self.over = True
        self.join(5)


@pytest.fixture
def busy():
    """Several threads that do the same thing."""
    made = []

    def start(act, count=4):
        made.extend(Victim(act) for _ in range(count))
        for each in made:
            each.start()
        return made

    yield start
    for each in made:
        each.end()


class SlowStream:
    """Whoever writes to it keeps the others waiting for the handler's lock."""

    def write(self, _):
        time.sleep(0.001)

    def flush(self):
        pass


def test_threads_that_log_all_the_time_can_go_on_logging_after_any_number_of_interrupts(busy):
    logger = logging.getLogger("tests.interrupts")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers = [logging.StreamHandler(SlowStream())]
    threads = busy(lambda: (logger.info("busy"), time.sleep(0.0005)))

    for number in range(INTERRUPTS):
        interrupt(threads[number % len(threads)].ident, Interrupt)
    for each in threads:
        each.end()

    assert not any(each.is_alive() for each in threads)
    assert sum(each.interrupted for each in threads) > INTERRUPTS / 4


def test_a_condition_that_threads_share_is_free_after_any_number_of_interrupts(busy):
    condition = threading.Condition()

    def share():
        with condition:
            time.sleep(0.0005)

    threads = busy(share)

    for number in range(INTERRUPTS):
        interrupt(threads[number % len(threads)].ident, Interrupt)
    for each in threads:
        each.end()

    assert not any(each.is_alive() for each in threads)
    assert sum(each.interrupted for each in threads) > INTERRUPTS / 4


def test_a_thread_that_waits_again_and_again_is_interrupted_between_two_waits(busy):
    event = threading.Event()
    (thread,) = busy(lambda: event.wait(0.02), count=1)

    told = interrupt(thread.ident, Interrupt)
    give_up = time.monotonic() + 60
    while not thread.interrupted and time.monotonic() < give_up:
        time.sleep(0.01)

    assert told
    assert thread.interrupted == 1


def test_a_thread_that_waits_for_a_lock_is_left_alone_and_whoever_asked_is_told(busy):
    condition = threading.Condition()

    def share():
        with condition:
            pass

    with condition:
        (thread,) = busy(share, count=1)
        while sys._current_frames()[thread.ident].f_code is not threading.Condition.__enter__.__code__:
            time.sleep(0.001)
        told = interrupt(thread.ident, Interrupt)

    assert not told
    assert thread.interrupted == 0


def test_a_thread_that_has_called_an_interrupt_back_goes_on_also_under_a_tracer():
    def trace(*_):
        return trace

    def traced():
        call_back()
        sys.settrace(trace)
        Victim(None)

    thread = threading.Thread(target=traced, daemon=True)
    thread.start()
    thread.join(60)

    assert not thread.is_alive()


def test_a_thread_that_the_interpreter_does_not_know_waits_for_nothing_to_strike(monkeypatch):
    monkeypatch.setattr(threading, "get_ident", lambda: 0)  # as where greenlets stand for threads

    call_back()
