"""The soak's fifty collectors. Each keeps a table, or its part of one, in step with a source of its own.

Until the test says that all is calm, some of them are slow, some fail now and then, and one kills its own process.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import peewee

from collectkit import AclModel, Model, collector, cron
from tests.chaos.soaked.plan import (
    APPENDS,
    BACKOFF,
    CHAINS,
    DEADLY,
    FLAKY,
    GROUPS,
    PARTS,
    PROTECTED,
    SLOW,
    SNAPSHOTS,
    WINDOWS,
)
from tests.chaos.soaked.source import LATENESS, Source, tally
from tests.chaos.subjects.sizes import MAX_ATTEMPTS

HERE = Path(os.environ.get("SOAK_DIR", "."))
SEED = os.environ.get("SOAK_SEED", "")
PER_STEP = int(os.environ.get("SOAK_PER_STEP", "1"))
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=1)
"""Of the sources' own clock."""

PIECE = 2000
OPTIONS = {
    "periodic": cron("* * * * *"),
    "max_attempts": MAX_ATTEMPTS,
    "backoff": BACKOFF,
}


class Appended(Model):
    """Nothing here tells a row that was written twice from two rows: only the checkpoint does."""

    id = peewee.BigAutoField()
    stream = peewee.IntegerField()
    seq = peewee.IntegerField()
    value = peewee.IntegerField()
    run = peewee.IntegerField()


class Event(Model):
    stream = peewee.IntegerField()
    id = peewee.IntegerField()
    value = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("stream", "id")


class Snapshot(Model):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()


class ProtectedSnapshot(AclModel):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()


class Tally(Model):
    part = peewee.IntegerField(primary_key=True)
    rows = peewee.IntegerField()
    total = peewee.BigIntegerField()


SNAPSHOT = [
    type(f"Snapshot{number}", (ProtectedSnapshot if number in PROTECTED else Snapshot,), {})
    for number in range(SNAPSHOTS)
]
TALLY = [type(f"Tally{number}", (Tally,), {}) for number in range(CHAINS)]
GRAND = [type(f"Grand{number}", (Tally,), {}) for number in range(CHAINS)]


def source(name):
    return Source(HERE / name, PER_STEP)


def step():
    return int((HERE / "step").read_text())


def lot(run):
    """Return what decides over this run's behaviour: it follows from the seed, the collector, and the run's number."""
    return Random(f"{SEED}/{run.name}/{run.id}")


def behave(name, random):
    """Be slow, fail, or die, if that is the collector's nature and all is not calm yet."""
    if (HERE / "calm").exists():
        return
    if name in SLOW:
        time.sleep(random.uniform(0.2, 1.5))
    if name in FLAKY and random.random() < 0.2:
        raise ConnectionError("the source is flaky")
    if name in DEADLY and random.random() < 0.03:
        os.kill(os.getpid(), signal.SIGKILL)


def append(number):
    name = f"append_{number}"

    @collector(name=f"soak.{name}", data_models=[Appended], **OPTIONS)
    def collect(run):
        now, random = step(), lot(run)
        while True:
            behave(name, random)
            seq = run.meta_attr.get("seq", 0)
            found = source(name).after(seq, now, PIECE)
            is_all = len(found) < PIECE
            with run.checkpoint(
                run.started_at if is_all else None, is_all or run.is_complete, {"seq": seq + len(found)}
            ):
                for start in range(0, len(found), 500):
                    rows = [(number, v.seq, v.value, run.id) for v in found[start : start + 500]]
                    Appended.insert_many(rows, [Appended.stream, Appended.seq, Appended.value, Appended.run]).execute()
                    behave(name, random)
            if is_all:
                return


def window(number):
    name = f"window_{number}"

    @collector(name=f"soak.{name}", data_models=[Event], **OPTIONS)
    def collect(run):
        now, random = step(), lot(run)
        since = run.updated_until_dt or BEGINNING
        for part in run.windows(since, 40 * STEP, overlap=(LATENESS + 1) * STEP, until=BEGINNING + (now + 1) * STEP):
            behave(name, random)
            start, end = ((moment - BEGINNING) // STEP for moment in part)
            found = source(name).changed(start, end, now)
            is_last = end == now + 1
            with run.checkpoint(part.end, is_last or run.is_complete) as batch:
                batch.upsert(Event, [{"stream": number, "id": v.id, "value": v.value} for v in found if not v.deleted])
                behave(name, random)
                gone = [v.id for v in found if v.deleted]
                Event.delete().where(Event.stream == number, Event.id.in_(gone)).execute()


def snapshot(number):
    name = f"snapshot_{number}"

    @collector(name=f"soak.{name}", data_models=[SNAPSHOT[number]], acl=GROUPS, **OPTIONS)
    def collect(run):
        now, random = step(), lot(run)
        if run.meta_attr.get("step") == now:
            run.store(updated_until_dt=run.started_at)
            return
        found = source(name).snapshot(now)
        behave(name, random)
        with run.checkpoint(run.started_at, meta_attr={"step": now}) as batch:
            batch.replace(SNAPSHOT[number], ((v.id, v.value) for v in found), max_shrink=1)
            behave(name, random)


def derive(name, model, above, columns, parts):
    """Keep a table that is worked out from the one above: it follows, and waits until that is complete."""

    @collector(
        name=f"soak.{name}",
        data_models=[model],
        acl=GROUPS,
        after=[f"soak.{above}"],
        depends_on=[f"soak.{above}"],
        max_attempts=MAX_ATTEMPTS,
        backoff=BACKOFF,
    )
    def collect(run):
        random = lot(run)
        with run.checkpoint(run.started_at) as batch:
            behave(name, random)
            batch.replace(model, tally(columns(), parts), max_shrink=1)


for each in range(APPENDS):
    append(each)
for each in range(WINDOWS):
    window(each)
for each in range(SNAPSHOTS):
    snapshot(each)
for each in range(CHAINS):
    of = SNAPSHOT[each]
    derive(f"tally_{each}", TALLY[each], f"snapshot_{each}", lambda of=of: of.select(of.id, of.value).tuples(), PARTS)
    of = TALLY[each]
    derive(f"grand_{each}", GRAND[each], f"tally_{each}", lambda of=of: of.select(of.part, of.total).tuples(), 7)
