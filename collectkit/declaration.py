"""What an author declares of a collector: the decorator's options, checked, and what the ledger keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import peewee

from collectkit.groups import Acl, resolve
from collectkit.schedule import CronSpec
from collectkit.settings import Settings


@dataclass(frozen=True, slots=True)
class Declaration:
    """What code says of one collector, as ``migrate`` writes it into the ledger."""

    name: str
    schedule: str | None
    tz: str
    depends_on: tuple[str, ...]
    after: tuple[str, ...]
    data_models: tuple[str, ...]
    enabled: bool
    max_attempts: int
    fresh_for: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The decorator's options, checked."""

    periodic: CronSpec | None
    after: tuple[str, ...]
    data_models: tuple[type[peewee.Model], ...]
    depends_on: tuple[str, ...]
    each: Callable[[], Iterable[str]] | None
    enabled: bool
    dry_run: bool | None
    fresh_for: timedelta | None
    deadline: timedelta
    max_attempts: int
    backoff: tuple[timedelta, timedelta]
    cursor_keys: tuple[str, ...]
    acl: Acl | str | tuple[str, ...] | None

    def faults(self) -> list[str]:
        """Return what cannot be used, one sentence each."""
        faults = []
        if self.periodic is None and not self.after:
            faults.append('it would never run: give it periodic=cron("...") or after=[...]')
        if not isinstance(self.periodic, CronSpec | None):
            faults.append(  # type: ignore[unreachable]  # not every author has a type checker
                "periodic= takes collectkit.cron(...): periodiq's own specs never fire on some of their ticks"
            )
        if self.max_attempts < 1:
            faults.append(f"max_attempts={self.max_attempts}: a run is tried at least once")
        if self.deadline <= timedelta(0):
            faults.append(f"deadline={self.deadline}: a run needs some time")
        if self.fresh_for is not None and self.fresh_for <= timedelta(0):
            faults.append(f"fresh_for={self.fresh_for}: data would never be fresh")
        if not timedelta(0) < self.backoff[0] <= self.backoff[1]:
            faults.append(f"backoff={self.backoff}: the first wait is above zero and no longer than the longest")
        if self.acl is not None:
            try:
                resolve(self.acl, Settings())
            except ValueError as error:
                faults.append(str(error))
        return faults
