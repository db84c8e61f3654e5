"""Scores by Peewee, as its documentation says for bulk inserts: ``insert_many`` of tuples, in batches, one transaction.

    peewee_load.py DATABASE_URL [sparing]

Rows that are there are updated by ``on_conflict``; with "sparing", a condition leaves alone those that do not differ,
as all other ways do. Rows that are gone would be left, so this does less than they do.
"""

from __future__ import annotations

import csv
import gzip
import sys
from itertools import islice
from typing import Final

import peewee
from turns import take_turns

_BATCH: Final = 1000
_HEAD: Final = 2  # a comment, and the names


class Exact(peewee.DecimalField):
    def get_modifiers(self):
        return None


class Scores(peewee.Model):
    cve_id = peewee.TextField(primary_key=True)
    epss = Exact()
    percentile = Exact()


def load(database: peewee.Database, file: str, *, sparing: bool) -> None:
    key, values, excluded = Scores.cve_id, [Scores.epss, Scores.percentile], peewee.EXCLUDED
    differs = (Scores.epss != excluded.epss) | (Scores.percentile != excluded.percentile)
    with gzip.open(file, "rt", newline="") as lines, database.atomic():
        for batch in peewee.chunked(csv.reader(islice(lines, _HEAD, None)), _BATCH):
            Scores.insert_many(batch, [key, *values]).on_conflict(
                conflict_target=[key], preserve=values, where=differs if sparing else None
            ).execute()


def main() -> None:
    url, sparing = sys.argv[1], "sparing" in sys.argv[2:]
    database = peewee.PostgresqlDatabase(url)
    with database.bind_ctx([Scores]), database.connection_context():
        take_turns(lambda file: load(database, file, sparing=sparing))


if __name__ == "__main__":
    main()
