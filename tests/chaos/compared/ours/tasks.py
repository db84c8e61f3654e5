"""The same collectors with collectkit."""

from __future__ import annotations

from datetime import timedelta

import peewee

from collectkit import Model, collector, cron
from tests.chaos.compared.feed import COLLECTORS, pages


class Row(Model):
    stream = peewee.IntegerField()
    seq = peewee.IntegerField()
    value = peewee.IntegerField()


def collect(number):
    @collector(
        name=f"compared.{number}",
        periodic=cron("* * * * *"),
        data_models=[Row],
        backoff=(timedelta(seconds=0.5), timedelta(seconds=2)),
    )
    def collect(run):
        for page in pages(number, run.meta_attr.get("seq", 0)):
            seq = run.meta_attr.get("seq", 0) + len(page)
            with run.checkpoint(run.started_at, meta_attr={"seq": seq}):
                Row.insert_many([(number, v.seq, v.value) for v in page], [Row.stream, Row.seq, Row.value]).execute()
        run.store(updated_until_dt=run.started_at)


for each in range(COLLECTORS):
    collect(each)
