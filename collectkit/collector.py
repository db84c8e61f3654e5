"""The decorator: what an author declares about a collector, and the actor that it makes of the function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial

import dramatiq
import peewee

from collectkit.actor import Collector
from collectkit.broker import broker
from collectkit.declaration import Options
from collectkit.errors import DeclarationError
from collectkit.groups import Acl
from collectkit.run import Run
from collectkit.schedule import CronSpec


def collector(
    *,
    periodic: CronSpec | None = None,
    after: Sequence[Collector | str] = (),
    data_models: Sequence[type[peewee.Model]] = (),
    depends_on: Sequence[Collector | str] = (),
    each: Callable[[], Iterable[str]] | None = None,
    enabled: bool = True,
    dry_run: bool | None = None,
    fresh_for: timedelta | None = None,
    deadline: timedelta = timedelta(hours=1),
    max_attempts: int = 3,
    backoff: tuple[timedelta, timedelta] = (timedelta(seconds=30), timedelta(minutes=15)),
    cursor_keys: Sequence[str] = (),
    acl: Acl | str | Sequence[str] | None = None,
    name: str | None = None,
    queue: str = "collectors",
) -> Callable[[Callable[[Run], object]], Collector]:
    """Declare the function as a collector: a dramatiq actor that runs when the ledger says that it is due.

    Arguments:
        periodic: when, as ``cron("20 13 * * *")``.
        after: collectors whose changed rows make this one due at once.
        data_models: the models whose tables it fills; ``migrate`` creates them, ``freshness(Model)`` finds it by them.
        depends_on: collectors that must be complete before this one runs.
        each: gives instance keys: one collector for each, with its own row and ``run.key``.
        enabled: whether it runs at all.
        dry_run: roll back every checkpoint; None leaves it to the settings.
        fresh_for: for how long after its watermark the data count as fresh; without it, until the second tick after.
        deadline: after so long a run is interrupted.
        max_attempts: how often it is tried before it waits for the next tick.
        backoff: the wait after the first failure, which doubles, and the longest.
        cursor_keys: the keys of ``meta_attr`` that a rewind drops.
        acl: the access groups that its runs act under, and stamp rows with: the level ``public``, ``internal`` or
            ``embargo``, or ``Acl(read=[...], write=[...])``. Several levels in a list: rows then have groups of their
            own. Without it a run has no group, and tables with access groups are closed to it.
        name: instead of module and function.
        queue: the dramatiq queue of its nudges.

    Raises:
        DeclarationError: at import, naming every option that cannot be used.
    """

    def declare(fn: Callable[[Run], object]) -> Collector:
        full_name = name or f"{fn.__module__}.{fn.__qualname__}"
        declared = Options(
            periodic=periodic,
            after=_names(after),
            data_models=tuple(data_models),
            depends_on=_names(depends_on),
            each=each,
            enabled=enabled,
            dry_run=dry_run,
            fresh_for=fresh_for,
            deadline=deadline,
            max_attempts=max_attempts,
            backoff=backoff,
            cursor_keys=tuple(cursor_keys),
            acl=acl if isinstance(acl, Acl | str | None) else tuple(acl),
        )
        bracket = ["a name has no [: what is between brackets is an instance's key"] if "[" in full_name else []
        faults = [f"collector {full_name!r}: {fault}" for fault in (*bracket, *declared.faults())]
        if faults:
            raise DeclarationError(faults)
        options = {} if periodic is None else {"periodic": periodic}
        made = dramatiq.actor(
            actor_class=partial(Collector, declared=declared),
            actor_name=full_name,
            queue_name=queue,
            broker=broker,
            **options,
        )(fn)
        made.__doc__ = fn.__doc__
        return made  # type: ignore[return-value]  # actor_class decides

    return declare


def _names(collectors: Sequence[Collector | str]) -> tuple[str, ...]:
    if isinstance(collectors, str | Collector):
        collectors = [collectors]
    return tuple(each.name if isinstance(each, Collector) else each for each in collectors)
