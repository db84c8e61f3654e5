"""A limit to guessing: so many attempts in a while, counted in this process only."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Throttle:
    """Counts attempts by key, within a bounded memory.

    An attempt counts before it is judged, so that a hundred at once are no way around; a success takes the count back.
    When the memory is full the key that began longest ago is forgotten: to have one forgotten takes so many attempts
    that its time is over before.

    Arguments:
        limit: attempts of one key in one ``period``.
        period: seconds from the first attempt until the count starts anew.
        capacity: keys that are remembered at most.
        clock: seconds that never go back.
    """

    def __init__(
        self, *, limit: int, period: float, capacity: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._period = period
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._attempts: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def wait(self, key: Hashable) -> float:
        """Count an attempt; return 0, or the seconds until the next one is taken, if there were too many."""
        now = self._clock()
        with self._lock:
            began, count = self._attempts.get(key, (now, 0))
            if now - began >= self._period:
                del self._attempts[key]
                began, count = now, 0
            if count >= self._limit:
                return began + self._period - now
            self._attempts[key] = (began, count + 1)
            if len(self._attempts) > self._capacity:
                self._attempts.popitem(last=False)
            return 0

    def forget(self, key: Hashable) -> None:
        """Forget a key whose attempt was right."""
        with self._lock:
            self._attempts.pop(key, None)
