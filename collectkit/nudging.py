"""Nudging what is claimable: what the sweep and the scheduler both do, any number of times, without harm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from dramatiq import Message

from collectkit import ledger
from collectkit.actor import Collector
from collectkit.broker import broker
from collectkit.crashpoints import reached
from collectkit.names import family, key_of


class Nudger:
    """Sends a nudge to each claimable collector among those that this process knows.

    Which instances one has the ledger says, not its ``each``: that is the author's, it may fail and it may take long.

    Arguments:
        collectors: the ones it knows; a nudge for another would be dropped by a worker that does not know it either.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._of_queue: dict[str, dict[str, Collector]] = defaultdict(dict)
        for collector in collectors:
            self._of_queue[collector.queue_name][collector.name] = collector

    def nudge_due(self) -> list[str]:
        """Nudge what is claimable, longest due first, as far as the queues have room; return the names.

        Raises:
            BrokerUnavailable, DatabaseUnavailable: a server does not answer; the next call makes up for it.
        """
        nudged: list[str] = []
        for queue, collectors in self._of_queue.items():
            reached("nudge.before")
            due = ledger.due(list(collectors), broker.room(queue))
            for name in due:
                reached("nudge.marked", name)
            if due:
                broker.enqueue_all(_nudge(collectors[family(name)], key_of(name)) for name in due)
            for name in due:
                reached("nudge.sent", name)
            nudged += due
        return nudged


def _nudge(collector: Collector, key: str | None) -> Message[Any]:
    return collector.message() if key is None else collector.message(key)
