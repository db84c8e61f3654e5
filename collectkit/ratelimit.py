"""A source's own limit of requests, kept: a request waits for its turn, whichever thread makes it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

# An interrupt (lease lost, deadline, shutdown) reaches a thread only between two pieces of its waiting.
_PIECE = 0.2


class RateLimit:
    """So many requests in any stretch of so much time, over all threads of this process and not beyond it.

    Make one for each source, at import, and give it to every ``fetch``::

        LIMIT = RateLimit(5, timedelta(seconds=30))

        with fetch(run, url, limit=LIMIT) as feed: ...

    A request counts from its beginning, and once its answer has begun from that moment on: the source may have counted
    it as late as that. So the limit holds by the source's clock too, however long a request was on its way.

    Arguments:
        requests: how many.
        per: in how much time.
    """

    def __init__(self, requests: int, per: timedelta) -> None:
        if requests < 1 or per <= timedelta(0):
            raise ValueError(f"RateLimit({requests}, {per}) lets no request through: both are above zero")
        self.requests = requests
        self.per = per
        self._lock = threading.Lock()
        self._counted: dict[object, float] = {}

    def __repr__(self) -> str:
        """Show the limit in words."""
        return f"a request limit of {self.requests} in {self.per.total_seconds():g} s"

    @contextmanager
    def request(self, give_up: float = math.inf) -> Iterator[None]:
        """Wait for the turn of one request, which is made within the block; ``fetch`` does so by itself.

        Arguments:
            give_up: the ``time.monotonic()`` by which the turn must have come.

        Raises:
            TimeoutError: it will not have; said at once, without waiting in vain.
        """
        turn = object()
        while wait := self._seconds_to_wait(turn):
            if time.monotonic() + wait >= give_up:
                raise TimeoutError(f"no turn came under {self}")
            time.sleep(min(wait, _PIECE))
        try:
            yield
        finally:
            with self._lock:
                self._counted[turn] = time.monotonic()

    def _seconds_to_wait(self, turn: object) -> float:
        """Count the request and return 0 if there is room for it, else return when to look again.

        What is counted lapses by itself: a thread that an interrupt takes away in mid-request leaves nothing behind.
        """
        with self._lock:
            now = time.monotonic()
            since = now - self.per.total_seconds()
            self._counted = {each: at for each, at in self._counted.items() if at > since}
            if len(self._counted) < self.requests:
                self._counted[turn] = now
                return 0.0
            return min(self._counted.values()) - since
