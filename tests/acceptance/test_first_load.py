"""A first load of many pages, its worker killed at random moments: it ends as one that nobody disturbed."""

from __future__ import annotations

import os
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.nvd_api import NvdApi, recorded
from tests.replay import Replay
from tests.secured import ident
from tests.site import Site

NVD = "collectors.nvd.tasks.nvd_collector"
FIRST_ANSWER = datetime(2025, 6, 23, 22, 2, 16, tzinfo=UTC)
KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 10**6)
PAGE = 10
PAGES = 250 // PAGE
ANSWER_SECONDS = 0.05
TTL = 1.5


class FirstLoad:
    """The collector ``nvd`` on a site of its own, and an API that takes its time and looks what was committed."""

    def __init__(self, site: Site, source: Replay) -> None:
        self.site = site
        self.api = NvdApi(source, recorded("2025-06-23"), timestamp="", most=PAGE)
        self.api.before = self._look
        self.asked_again: list[tuple[int, int]] = []

    def _look(self, asked: dict[str, str]) -> None:
        """Note a request for another page than the one that follows what was committed.

        The clock goes on with what was committed, so that a watermark taken from a later page than the first is seen,
        and a first page that a kill took away before its commit may be asked for again.
        """
        with psycopg.connect(self.site.environ["COLLECTKIT_DATABASE_URL"]) as connection:
            [(committed,)] = connection.execute(
                "SELECT coalesce((meta_attr->'paging'->>'start')::int, 0) FROM collectkit.collector WHERE name = %s",
                [NVD],
            )
        if int(asked["startIndex"]) != committed:
            self.asked_again.append((int(asked["startIndex"]), committed))
        answers = FIRST_ANSWER + timedelta(minutes=committed // PAGE)
        self.api.timestamp = answers.isoformat(timespec="milliseconds").removesuffix("+00:00")
        time.sleep(ANSWER_SECONDS)

    def waits_for_page(self, page: int) -> None:
        """Return when a run that began meanwhile has asked for this page or a later one."""
        before = len(self.api.asked)
        self.site.until(lambda: any(start >= page * PAGE for start in self.api.starts[before:]))

    def is_due(self) -> None:
        self.site.sql("UPDATE collectkit.collector SET next_due_at = clock_timestamp() WHERE name = %s", NVD)

    def is_complete(self) -> bool:
        return self.site.sql("SELECT data_state FROM collectkit.collector WHERE name = %s", NVD) == [("COMPLETE",)]

    def outcomes(self) -> list[str]:
        return [each for (each,) in self.site.sql("SELECT outcome FROM collectkit.run ORDER BY id")]

    def end_state(self) -> list[tuple[object, ...]]:
        """Rows, watermark, cursor and state."""
        self.site.sql("SELECT set_config('collectkit.acl', %s, false)", str(ident("public")))
        rows = self.site.sql("SELECT * FROM nvd ORDER BY cve_id")
        return rows + self.site.sql("SELECT data_state, updated_until_dt, meta_attr FROM collectkit.collector")

    def forget(self) -> None:
        """Be as before the first run."""
        self.api.asked.clear()
        self.site.sql("TRUNCATE nvd")
        self.site.sql(
            "UPDATE collectkit.collector SET data_state = 'EMPTY', updated_until_dt = NULL, stale_at = NULL,"
            " meta_attr = '{}', attempt = 0"
        )


@pytest.fixture
def load():
    with (
        tempfile.TemporaryDirectory(prefix="ck-", ignore_cleanup_errors=True) as home,
        Replay() as source,
        Site(
            Path(home),
            {},
            ttl=TTL,
            environ={
                "COLLECTKIT_COLLECTORS": "collectors.nvd",
                "NVD_COLLECTOR_URL": f"{source.base}/rest/json/cves/2.0",
                "NVD_COLLECTOR_API_KEY": "50-requests-in-30-seconds",
                "no_proxy": "127.0.0.1",
            },
        ) as site,
    ):
        yield FirstLoad(site, source)


def test_a_first_load_that_is_killed_ends_as_one_that_is_not_and_asks_for_no_committed_page_again(load):
    chance = random.Random(SEED)
    print(f"seed {SEED}, {KILLS} kills")  # a failure shows it; SEED= plays it again
    for page in sorted(chance.sample(range(PAGES - 5), KILLS)):
        worker = load.site.run("worker")
        load.is_due()
        load.waits_for_page(page)
        time.sleep(chance.uniform(0, ANSWER_SECONDS + 0.03))
        load.site.kill(worker)
        worker.wait()
    load.site.run("worker")
    load.is_due()
    load.site.until(load.is_complete)
    load.site.until(lambda: load.outcomes()[-1:] == ["OK"])
    disturbed, requests = load.end_state(), len(load.api.asked)

    load.forget()
    assert load.site.run("run", "nvd").wait(60) == 0
    undisturbed = load.end_state()

    assert load.outcomes() == [*["LOST"] * KILLS, "OK", "OK"]
    assert load.asked_again == []
    assert len(load.api.asked) == PAGES
    assert PAGES <= requests <= PAGES + KILLS
    assert disturbed == undisturbed
    assert len(disturbed) == 251
