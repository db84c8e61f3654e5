"""A lock-and-ORM collector in the common style, written for the comparison: `dramatiq tests.chaos.compared.common`.

A task, a lock in Redis with a time to live, a row of metadata with a state; rows are saved as they come, and the place
up to which they are in is stored after them.
"""

from __future__ import annotations

import os
import time

import dramatiq
import peewee
from dramatiq.brokers.redis import RedisBroker
from playhouse.postgres_ext import PooledPsycopg3Database

from tests.chaos.compared.feed import COLLECTORS, LOCK_TTL, pages

BROKER_URL = os.environ.get("COLLECTKIT_BROKER_URL", "redis://localhost")
TRUSTS_STATE = os.environ.get("COMPARED_TRUSTS_STATE") == "yes"
"""Whether a collector whose row says RUNNING is left alone; otherwise the lock alone decides."""

broker = RedisBroker(url=BROKER_URL)
dramatiq.set_broker(broker)
database = PooledPsycopg3Database(None, max_connections=None)
database.init(os.environ.get("COLLECTKIT_DATABASE_URL", "collectkit"), max_connections=None)


class Metadata(peewee.Model):
    number = peewee.IntegerField(primary_key=True)
    state = peewee.TextField(default="READY")
    cursor = peewee.IntegerField(default=0)

    class Meta:
        database = database


class Row(peewee.Model):
    stream = peewee.IntegerField()
    seq = peewee.IntegerField()
    value = peewee.IntegerField()

    class Meta:
        database = database


@dramatiq.actor(max_retries=3, min_backoff=500, max_backoff=2000)
def collect(number: int) -> None:
    lock = f"lock:{number}"
    if not broker.client.set(lock, "held", nx=True, ex=LOCK_TTL):
        return
    try:
        with database.connection_context():
            meta = Metadata.get_by_id(number)
            if TRUSTS_STATE and meta.state == "RUNNING":
                return
            meta.state = "RUNNING"
            meta.save()
            for page in pages(number, meta.cursor):
                Row.insert_many([(number, v.seq, v.value) for v in page], [Row.stream, Row.seq, Row.value]).execute()
                time.sleep(0.02)
                meta.cursor += len(page)
                meta.save()
            meta.state = "READY"
            meta.save()
    finally:
        broker.client.delete(lock)


def make_tables() -> None:
    database.create_tables([Metadata, Row])
    Metadata.insert_many([(number,) for number in range(COLLECTORS)], [Metadata.number]).execute()


if __name__ == "__main__":
    make_tables()
