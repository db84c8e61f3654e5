"""Raising an exception in another thread, at a moment at which it can do no harm there.

The interpreter raises it wherever that thread happens to be. Between the taking of a lock and the ``try`` or ``with``
that gives it back, the lock would be taken for ever; and all threads share the locks of ``logging``, the one that
renews leases too: one interrupt at the wrong moment, and nothing in the process moves any more.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from types import FrameType
from typing import Any

from dramatiq.middleware import Interrupt, Shutdown, ShutdownNotifications, SkipMessage
from dramatiq.middleware.threading import raise_thread_exception
from dramatiq.threading import thread_id_ctype

_LOGGING = logging.Handler.handle.__code__.co_filename
_LOCKS = frozenset(
    method.__code__
    for method in (
        threading.Condition.__enter__,
        threading.Condition.__exit__,
        threading.Condition._acquire_restore,  # type: ignore[attr-defined]  # noqa: SLF001 - what wait() goes through
        threading.Condition._release_save,  # type: ignore[attr-defined]  # noqa: SLF001
    )
)
_PATIENCE = 0.1
_PAUSE = 0.0005
_SHUTDOWN_TRIES = 30

logger = logging.getLogger(__name__)


def interrupt(thread: int, reason: type[Interrupt]) -> bool:
    """Have the thread raise ``reason`` as soon as it runs Python code; False if it was busy with locks all the time.

    It cannot break a call that blocks outside the interpreter. Whoever gets False asks again later.

    Arguments:
        thread: its ``ident``.
    """
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up:
        # Back from a sleep this thread has the interpreter for some milliseconds: the other one stays where it is seen.
        time.sleep(_PAUSE)
        if not _is_at_a_lock(sys._current_frames().get(thread)):  # noqa: SLF001 - documented, for this very purpose
            raise_thread_exception(thread, reason)
            return True
    return False


def call_back() -> None:
    """Have this thread not raise what it has been told to and has not raised yet.

    Another exception takes its place and is caught here. One that is only taken away CPython 3.11 goes on looking for,
    and where a tracer is at work, a debugger or coverage, it does nothing else any more.
    """
    try:
        me, told = thread_id_ctype(threading.get_ident()), ctypes.py_object(_CalledBack)
        # Again at each turn, for in a finalizer it would be lost; the answer is 0 where there is nobody to strike.
        while ctypes.pythonapi.PyThreadState_SetAsyncExc(me, told):
            pass
    except _CalledBack:
        return


class _CalledBack(BaseException):
    pass


class CarefulShutdown(ShutdownNotifications):
    """dramatiq's notice of a shutdown, at a moment at which it can do no harm; and no run begins after it.

    Attributes:
        is_over: whether a worker of this process has been told to stop and has not stopped yet.
    """

    is_over = False

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Take none once the notice has gone round: nobody would tell its run, which would be lost with the process."""
        super().before_process_message(broker, message)  # type: ignore[no-untyped-call]  # dramatiq's
        if self.is_over:
            raise SkipMessage("the process stops")

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - dramatiq's signature
        """Raise Shutdown in every thread that runs a collector."""
        self.is_over = True
        for thread in list(self.manager.notifications):  # type: ignore[attr-defined]  # CPython's has them
            told = any(interrupt(thread, Shutdown) for _ in range(_SHUTDOWN_TRIES))
            logger.info("thread %s %s", thread, "is told to hand over" if told else "cannot be told to hand over")

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - dramatiq's signature
        """Take messages again: another worker of this process may run, or be to come."""
        self.is_over = False


def _is_at_a_lock(frame: FrameType | None) -> bool:
    return frame is not None and (frame.f_code.co_filename == _LOGGING or frame.f_code in _LOCKS)
