"""Nudging what is claimable: what the sweep and the scheduler both do, any number of times, without harm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from collectkit import ledger
from collectkit.broker import broker
from collectkit.collector import Collector
from collectkit.crashpoints import reached


class Nudger:
    """Sends a nudge to each claimable collector among those that this process knows.

    Arguments:
        collectors: the ones it knows; a nudge for another would be dropped by a worker that does not know it either.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._of_queue: dict[str, dict[str, tuple[Collector, str | None]]] = defaultdict(dict)
        for collector in collectors:
            for name, key in collector.instances().items():
                self._of_queue[collector.queue_name][name] = (collector, key)

    @property
    def names(self) -> list[str]:
        """The full names of all instances."""
        return [name for instances in self._of_queue.values() for name in instances]

    def nudge_due(self) -> list[str]:
        """Nudge what is claimable, longest due first, as far as the queues have room; return the names.

        Raises:
            BrokerUnavailable, DatabaseUnavailable: a server does not answer; the next call makes up for it.
        """
        nudged: list[str] = []
        for queue, instances in self._of_queue.items():
            reached("nudge.before")
            due = ledger.due(list(instances), broker.room(queue))
            for name in due:
                reached("nudge.marked", name)
            self._send(instances[name] for name in due)
            for name in due:
                reached("nudge.sent", name)
            nudged += due
        return nudged

    @staticmethod
    def _send(instances: Iterable[tuple[Collector, str | None]]) -> None:
        messages = [collector.message() if key is None else collector.message(key) for collector, key in instances]
        if messages:
            broker.enqueue_all(messages)
