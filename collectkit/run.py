"""What an author holds while a collector runs: where it stands, and checkpoints to move on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import peewee

from collectkit import ledger, schedule
from collectkit.acl import RunScope
from collectkit.counts import Counts
from collectkit.crashpoints import reached
from collectkit.database import database, writing
from collectkit.errors import CheckpointRefused, CollectkitError, LeaseLost
from collectkit.ledger import Claim
from collectkit.load import Batch
from collectkit.reasons import one_line
from collectkit.windows import Window, windows

# Hosts' clocks differ: up to this much a watermark may be ahead of the database's clock, or behind the stored one.
_CLOCK_SKEW = timedelta(minutes=1)
# Seconds between two lines of progress; and how long a ledger that took none is left alone, for it may take five
# seconds to find out that it is away.
_PROGRESS_INTERVAL = 1.0
_PROGRESS_PATIENCE = 30.0

logger = logging.getLogger(__name__)


class _RolledBack(Exception):
    pass


class Run:
    """One run of a collector: frozen facts about it, and the checkpoints through which alone it can write.

    Attributes:
        name: the collector's name; ``key``: the instance's key of a parametrised one, else None.
        id: the run's number in the history.
        updated_until_dt: the watermark, moved on by each checkpoint; None before the first.
        meta_attr: the cursor and whatever else checkpoints stored; a copy, change it through a checkpoint.
        is_complete: whether the data were complete at the last checkpoint.
        dry_run: whether every checkpoint rolls back.
        scheduled_for: the due time that this run serves; None if it was started by hand and had none.
        started_at: the database's clock at the claim: the watermark of a snapshot.
        attempt: 1 at the first try.
        deadline: the moment at which the run is interrupted, by the database's clock.
        log: a logger that carries the collector's name.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        key: str | None,
        deadline: datetime,
        lease_ttl: timedelta,
        scope: RunScope,
    ) -> None:
        self._claim = claim
        self._scope = scope
        self._plan = ledger.Plan(claim.schedule, claim.tz, claim.fresh_for)
        self._lease_ttl = lease_ttl
        self._batch: Batch | None = None
        self._in_doubt = False
        self._next_progress = 0.0
        self.name = claim.name
        self.key = key
        self.id = claim.run
        self.updated_until_dt = claim.updated_until_dt
        self.meta_attr: dict[str, Any] = dict(claim.meta_attr)
        self.is_complete = claim.data_state == "COMPLETE"
        self.dry_run = claim.dry_run
        self.scheduled_for = claim.scheduled_for
        self.started_at = claim.started_at
        self.attempt = claim.attempt
        self.deadline = deadline
        self.counts = Counts()
        self.log = logging.LoggerAdapter(logging.getLogger(claim.name), {"collector": claim.name, "run": claim.run})

    def __repr__(self) -> str:
        """Show which run of what this is."""
        return f"<Run {self.id} of {self.name}, attempt {self.attempt}>"

    @contextmanager
    def checkpoint(
        self,
        updated_until_dt: datetime | None = None,
        complete: bool = True,  # noqa: FBT001, FBT002 - the documented signature
        meta_attr: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Commit rows and watermark in one transaction, or neither: whatever is written inside belongs to it.

        Fetch before, not inside: the transaction should be short. A dry run does the same and rolls back at the end.

        Arguments:
            updated_until_dt: the new watermark: all that the source showed until then is in. None leaves it.
            complete: whether the data are complete as of the watermark; once complete, they stay it.
            meta_attr: keys to merge into ``meta_attr``; a value of None removes the key.

        Raises:
            CheckpointRefused: the watermark has no zone, goes back, or lies in the future; data without a watermark are
                said to be complete; or ``meta_attr`` is not JSON. Nothing was written.
            LeaseLost: somebody else has closed this run; the transaction was rolled back.
        """
        if self._batch is not None:
            raise CheckpointRefused(self.name, "another checkpoint of this run is still open")
        if self._in_doubt:
            raise CheckpointRefused(
                self.name,
                "whether the last checkpoint was committed is not known, for its COMMIT got no answer: let the run "
                "end, the next one goes on from what is stored",
            )
        reached("checkpoint.before", self.name)
        idle_limit = int(self._lease_ttl / timedelta(milliseconds=1))
        try:
            with writing(self._claim.application_name, idle_limit) as now:
                reached("checkpoint.begun", self.name)
                until = self._watermark(updated_until_dt, now)
                self._check_complete(complete, until)
                self._batch = Batch(database.connection(), self.name, self._scope.stamp)
                written_before = database.rows_written
                yield self._batch
                counts = self.counts + self._batch.counts
                changed = self._batch.counts.changed or database.rows_written > written_before
                self._guard(until, dict(meta_attr or {}), counts, complete=complete, changed=changed)
                if self.dry_run:
                    raise _RolledBack  # noqa: TRY301 - what rolls the transaction back
                self._in_doubt = True
                reached("commit.before", self.name)
            self._in_doubt = False
            reached("commit.after", self.name)
        except _RolledBack:
            logger.debug("dry run %s: checkpoint rolled back", self.id)
        finally:
            self._batch = None
        self._move_on(until, meta_attr, counts, complete=complete)

    def store(
        self,
        updated_until_dt: datetime | None = None,
        complete: bool = True,  # noqa: FBT001, FBT002 - the documented signature
        meta_attr: Mapping[str, Any] | None = None,
    ) -> None:
        """Move the watermark without rows: a checkpoint with nothing inside, same arguments, same errors."""
        with self.checkpoint(updated_until_dt, complete, meta_attr):
            pass

    def progress(self, done: int, total: int | None = None) -> None:
        """Show how far the run is, in ``collectkit status`` and in the service; call it as often as you like.

        It is written at most once a second, the end always; and it is for readers alone, so a database that does not
        take it is no error of the run. What a killed run had done its checkpoints know, not this.

        Arguments:
            done: how many of whatever is counted: records, pages, bytes.
            total: of how many; None if that is not known.
        """
        now = time.monotonic()
        if now < self._next_progress and done != total:
            return
        self._next_progress = now + _PROGRESS_INTERVAL
        try:
            ledger.progress(self._claim, done, total)
        except (CollectkitError, peewee.PeeweeException) as error:
            self._next_progress = now + _PROGRESS_PATIENCE
            logger.warning("progress of run %s was not written down: %s", self.id, str(error).partition("\n")[0])

    def windows(
        self, since: datetime, size: timedelta, overlap: timedelta = timedelta(0), until: datetime | None = None
    ) -> Iterator[Window]:
        """Cut the time from ``since - overlap`` to ``until``, else the run's start, into windows of ``size``."""
        return windows(since, until or self.started_at, size, overlap)

    def _watermark(self, wanted: datetime | None, now: datetime) -> datetime | None:
        stored = self.updated_until_dt
        if wanted is None:
            # Said again: what a dry run has stored so far was rolled back.
            return stored
        if wanted.tzinfo is None:
            raise CheckpointRefused(self.name, f"the watermark {wanted.isoformat()} has no time zone: give it one")
        if wanted > now + _CLOCK_SKEW:
            raise CheckpointRefused(
                self.name,
                f"the watermark {wanted.isoformat()} is later than the database's clock ({now.isoformat()}): "
                "it says what is in, not what is planned",
            )
        if stored is not None and wanted < stored - _CLOCK_SKEW:
            raise CheckpointRefused(
                self.name,
                f"the watermark {wanted.isoformat()} is before the stored one ({stored.isoformat()}): it never goes "
                "back by itself",
            )
        until = min(wanted, now)
        return until if stored is None else max(until, stored)

    def _check_complete(self, complete: bool, until: datetime | None) -> None:  # noqa: FBT001 - passed through
        if complete and until is None:
            raise CheckpointRefused(
                self.name, "complete data need a watermark: give updated_until_dt, or say complete=False"
            )

    def _guard(
        self, until: datetime | None, meta: dict[str, Any], counts: Counts, *, complete: bool, changed: bool
    ) -> None:
        acl = self._scope.acted_under()
        while True:
            stale_at = None if until is None else ledger.as_text(schedule.stale_at(*self._plan, until))
            try:
                plan = ledger.checkpoint(
                    self._claim,
                    until=until,
                    stale_at=stale_at,
                    complete=complete,
                    meta={key: value for key, value in meta.items() if value is not None},
                    removed=[key for key, value in meta.items() if value is None],
                    counts=msgspec.to_builtins(counts),
                    acl=acl,
                )
            except (TypeError, ValueError, peewee.DataError) as error:
                # Of all that is given here only this is the author's and was not looked at yet.
                raise CheckpointRefused(
                    self.name, f"meta_attr takes what JSON has, without NUL characters: {one_line(error)}"
                ) from error
            if plan is None:
                raise LeaseLost(
                    f"collector {self.name!r} lost its lease (run {self.id}, fence {self._claim.fence}): its "
                    "transaction was rolled back, the next run goes on from the last checkpoint"
                )
            if plan == self._plan:
                break
            # Another schedule was deployed while this run was on its way: freshness follows that one.
            self._plan = plan
        if changed:
            ledger.pull_followers(self.name)

    def _move_on(
        self, until: datetime | None, meta: Mapping[str, Any] | None, counts: Counts, *, complete: bool
    ) -> None:
        self.counts = counts
        self.updated_until_dt = until
        self.is_complete = self.is_complete or complete
        for key, value in (meta or {}).items():
            if value is None:
                self.meta_attr.pop(key, None)
            else:
                self.meta_attr[key] = value
