"""The collectors that are killed, stopped and cut off: one of each kind, over sources that a test grows.

Each notes in ``meta_attr`` how many rows its table holds after the checkpoint and what their values add up to, so that
rows and watermark can be compared at any instant. The order of the day is the file ``source/KIND.json``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime, timedelta

import peewee
from playhouse.postgres_ext import DateTimeTZField

from collectkit import AclModel, Model, collector, cron, fetch
from collectkit.crashpoints import reached
from tests.chaos.inside import HERE
from tests.chaos.subjects.sizes import BEGINNING, GROUPS, MAX_ATTEMPTS, SEVENTHS, STEP

# A tick comes once a year: whatever runs, the test has made due. A failed run is tried again at once.
OPTIONS = {"max_attempts": MAX_ATTEMPTS, "backoff": (timedelta(seconds=0.3), timedelta(seconds=0.6))}
YEARLY = cron("0 0 1 1 *")


class Appended(Model):
    """Nothing here tells a row that was written twice from two rows: only the checkpoint does."""

    id = peewee.BigAutoField()
    record = peewee.IntegerField()
    value = peewee.IntegerField()
    run = peewee.IntegerField()


class Event(AclModel):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()
    at = DateTimeTZField()


class Snap(Model):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()


class Seventh(Model):
    id = peewee.IntegerField(primary_key=True)
    value = peewee.IntegerField()


class Spare(Model):
    """A table that a test drops, so that ``migrate`` has something to make."""

    id = peewee.IntegerField(primary_key=True)


def source(kind):
    return json.loads((HERE / "source" / f"{kind}.json").read_text())


def sums(values):
    values = list(values)
    return {"rows": len(values), "total": sum(values)}


def halfway(run, rows):
    """Yield the rows, and come by the crash point in the middle of them."""
    for number, row in enumerate(rows):
        yield row
        if number == len(rows) // 2:
            reached("rows.middle", run.name)
    if not rows:
        reached("rows.middle", run.name)


@collector(name="chaos.append", periodic=YEARLY, data_models=[Appended], **OPTIONS)
def append(run):
    """By a cursor, in many checkpoints, with statements that would double what is done twice."""
    said = source("append")
    records, done = said["records"], run.meta_attr.get("rows", 0)
    for end in [*range(done + STEP, len(records), STEP), len(records)]:
        time.sleep(said["pause"])
        part = records[done:end]
        if not part:
            break
        until = datetime.fromisoformat(part[-1][2])
        stood = sums(value for _, value, _ in records[:end])
        with run.checkpoint(until, complete=end == len(records), meta_attr=stood):
            for record, value, _ in halfway(run, part):
                Appended.insert(record=record, value=value, run=run.id).execute()
        done = end


@collector(name="chaos.seventh", after=[append], data_models=[Seventh], **OPTIONS)
def seventh(run):
    """Derived from another collector's table; the commit that changes that one makes this one due."""
    found: Counter[int] = Counter()
    for record, value in Appended.select(Appended.record, Appended.value).tuples():
        found[record % SEVENTHS] += value
    if found:
        with run.checkpoint(run.started_at, meta_attr=sums(found.values())) as batch:
            batch.replace(Seventh, halfway(run, sorted(found.items())), max_shrink=1)


@collector(name="chaos.events", periodic=YEARLY, data_models=[Event], acl=GROUPS, **OPTIONS)
def events(run):
    """By windows of time, with an overlap, of records that change: the latest version stays, for some groups alone."""
    said = source("events")
    records = [(record, value, datetime.fromisoformat(at)) for record, value, at in said["records"]]
    since = run.updated_until_dt or BEGINNING
    until = datetime.fromisoformat(said["now"])
    for window in run.windows(since, timedelta(hours=1), timedelta(minutes=5), until):
        time.sleep(said["pause"])
        latest = {record: (record, value, at) for record, value, at in records if window.start <= at < window.end}
        known = {record: value for record, value, at in records if at < window.end}
        with run.checkpoint(window.end, complete=window.end == until, meta_attr=sums(known.values())) as batch:
            rows = list(latest.values())
            # Two loads: who is stopped in the second one's COPY holds the rows of the first.
            batch.upsert(Event, rows[::2])
            batch.upsert(Event, halfway(run, rows[1::2]))


@collector(name="chaos.snap", periodic=YEARLY, data_models=[Snap, Spare], **OPTIONS)
def snap(run):
    """A document that is fetched whole and replaces what was there."""
    with fetch(run, source("snap")["url"]) as feed:
        if feed.unchanged:
            run.store(run.started_at, meta_attr=feed.meta)
            return "unchanged"
        rows = feed.json(list[tuple[int, int]])
        stood = sums(value for _, value in rows)
        with run.checkpoint(run.started_at, meta_attr={**feed.meta, **stood}) as batch:
            return str(batch.replace(Snap, halfway(run, rows), max_shrink=1))
