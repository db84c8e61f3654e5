"""Scores by a collector's run: claim, download, unpack, check, load, commit with the watermark, close.

    collectkit_load.py scores|epss DATABASE_URL STATE_DIR

``scores`` is a collector as an author writes it, for a table without access groups; ``epss`` is the one that ships.
Both ask the address in EPSS_COLLECTOR_URL, whatever file the bench names.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import peewee
from turns import take_turns

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from collectkit import Model, Settings, collector, connect, cron, fetch
from collectors.epss.source import read_scores
from collectors.epss.tasks import epss_collector


class Exact(peewee.DecimalField):
    def get_modifiers(self):
        return None


class Scores(Model):
    cve_id = peewee.TextField(primary_key=True)
    epss = Exact()
    percentile = Exact()


@collector(periodic=cron("0 0 1 1 *"), data_models=[Scores], name="bench.scores")
def scores_collector(run):
    with fetch(run, os.environ["EPSS_COLLECTOR_URL"], accept="text/csv") as feed:
        if feed.unchanged:
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr=feed.meta) as batch:
            return str(batch.replace(Scores, read_scores(feed)))


def main() -> None:
    kind, url, state_dir = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    connect(Settings(database_url=url, state_dir=Path(state_dir)))
    collect = {"scores": scores_collector, "epss": epss_collector}[kind]
    Scores.select().count()  # as long as a worker runs, it has its connections

    def load(_file: str) -> None:
        outcome = collect.run_now()
        if outcome.outcome != "OK":
            raise SystemExit(f"{kind}: {outcome.reason}")

    take_turns(load)


if __name__ == "__main__":
    main()
