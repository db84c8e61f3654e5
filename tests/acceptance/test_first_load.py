"""A first load whose worker is killed at random moments: it ends as one that nobody disturbed."""

from __future__ import annotations

import os
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.feeds import scores
from tests.nvd_api import NvdApi, recorded
from tests.replay import DRIP_BYTES, Answer, Replay
from tests.secured import ident
from tests.site import Site

FIRST_ANSWER = datetime(2025, 6, 23, 22, 2, 16, tzinfo=UTC)
# In `make chaos` KILLS are those of the soak.
KILLS = 10 if os.environ.get("CHAOS") else int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("SEED") or 0) or random.randrange(1, 10**6)
PAGE = 10
PAGES = 250 // PAGE
ANSWER_SECONDS = 0.05
SCORES = scores(range(3000))
DOWNLOAD_SECONDS = 0.2
TTL = 3


class FirstLoad:
    """A collector on a site that is shared, where nothing is due but what a test says."""

    def __init__(self, site: Site, feed: str) -> None:
        self.site = site
        self.table = feed
        self.name = f"collectors.{feed}.tasks.{feed}_collector"

    def is_due(self) -> None:
        self.site.sql("UPDATE collectkit.collector SET next_due_at = clock_timestamp() WHERE name = %s", self.name)

    def is_complete(self) -> bool:
        return self.site.sql("SELECT data_state FROM collectkit.collector WHERE name = %s", self.name) == [
            ("COMPLETE",)
        ]

    def outcomes(self) -> list[str]:
        found = self.site.sql("SELECT outcome FROM collectkit.run WHERE collector = %s ORDER BY id", self.name)
        return [each for (each,) in found]

    def kill(self, worker) -> None:
        """Kill a worker; its lease lapses at once, so that nobody has to wait for it."""
        self.site.kill(worker)
        worker.wait()
        self.site.sql("UPDATE collectkit.collector SET lease_until = clock_timestamp() WHERE holder IS NOT NULL")

    def finish(self) -> None:
        """Let a worker take the load to its end, and end the worker."""
        worker = self.site.run("worker")
        self.is_due()
        self.site.until(self.is_complete)
        self.site.until(lambda: self.outcomes()[-1:] == ["OK"])
        self.kill(worker)

    def end_state(self) -> list[tuple[object, ...]]:
        """Rows, watermark, cursor and state, without the times of the runs that they come from."""
        self.site.sql("SELECT set_config('collectkit.acl', %s, false)", str(ident("public")))
        rows = self.site.sql(f"SELECT * FROM {self.table} ORDER BY cve_id")
        return rows + self.site.sql(
            "SELECT c.data_state, c.meta_attr - 'read_whole', CASE WHEN c.updated_until_dt = r.started_at THEN NULL"
            " ELSE c.updated_until_dt END FROM collectkit.collector c JOIN collectkit.run r ON r.collector = c.name"
            " WHERE c.name = %s ORDER BY r.id DESC LIMIT 1",
            self.name,
        )

    def undisturbed(self) -> list[tuple[object, ...]]:
        """Load once from nothing, and return the end state."""
        self.forget()
        assert self.site.run("run", self.table).wait(60) == 0, self.site.log()
        return self.end_state()

    def forget(self) -> None:
        """Be as before the first run."""
        self.site.sql(f"TRUNCATE {self.table}")
        self.site.sql(
            "UPDATE collectkit.collector SET data_state = 'EMPTY', updated_until_dt = NULL, stale_at = NULL,"
            " meta_attr = '{}', attempt = 0 WHERE name = %s",
            self.name,
        )

    def so_far(self) -> tuple[str, int]:
        """State and number of rows, of one moment."""
        self.site.sql("SELECT set_config('collectkit.acl', %s, false)", str(ident("public")))
        [found] = self.site.sql(
            f"SELECT data_state, (SELECT count(*) FROM {self.table}) FROM collectkit.collector WHERE name = %s",
            self.name,
        )
        return found

    def length(self) -> float:
        """How many seconds the last run took."""
        [(seconds,)] = self.site.sql(
            "SELECT extract(epoch FROM finished_at - started_at)::float8 FROM collectkit.run"
            " WHERE collector = %s ORDER BY id DESC LIMIT 1",
            self.name,
        )
        return seconds


class Pages(FirstLoad):
    """The collector ``nvd``, and an API that takes its time and looks what was committed."""

    def __init__(self, site: Site, source: Replay) -> None:
        super().__init__(site, "nvd")
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
                "SELECT coalesce((meta_attr->'whole'->>'start')::int, 0) FROM collectkit.collector WHERE name = %s",
                [self.name],
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


@pytest.fixture(scope="module")
def shared():
    with (
        tempfile.TemporaryDirectory(prefix="ck-", ignore_cleanup_errors=True) as home,
        Replay() as source,
        Site(
            Path(home),
            {},
            ttl=TTL,
            environ={
                "COLLECTKIT_COLLECTORS": "collectors.nvd,collectors.epss",
                "NVD_COLLECTOR_URL": f"{source.base}/rest/json/cves/2.0",
                "NVD_COLLECTOR_API_KEY": "50-requests-in-30-seconds",
                "EPSS_COLLECTOR_URL": f"{source.base}/scores",
                "no_proxy": "127.0.0.1",
            },
        ) as site,
    ):
        # Nor does a tick of theirs come while a test goes on.
        site.sql("UPDATE collectkit.collector SET schedule = '0 0 1 1 *'")
        yield site, source


@pytest.fixture
def place(shared):
    """The shared site and its source, without what the test before has left running."""
    site, _ = shared
    for process in site.processes:
        if process.poll() is None:
            site.kill(process)
            process.wait()
    return shared


@pytest.fixture
def chance():
    print(f"seed {SEED}, {KILLS} kills")  # a failure shows it; SEED= plays it again
    return random.Random(SEED)


def test_a_first_load_of_pages_that_is_killed_ends_as_one_that_is_not_and_asks_for_no_committed_page_again(
    place, chance
):
    load = Pages(*place)
    for page in sorted(chance.sample(range(PAGES - 5), KILLS)):
        worker = load.site.run("worker")
        load.is_due()
        load.waits_for_page(page)
        time.sleep(chance.uniform(0, ANSWER_SECONDS + 0.03))
        load.kill(worker)
    load.finish()
    disturbed, requests = load.end_state(), len(load.api.asked)

    load.api.asked.clear()
    undisturbed = load.undisturbed()

    assert load.outcomes() == [*["LOST"] * KILLS, "OK", "OK"]
    assert load.asked_again == []
    assert len(load.api.asked) == PAGES
    assert PAGES <= requests <= PAGES + KILLS
    assert disturbed == undisturbed
    assert len(disturbed) == 251


def test_a_first_load_of_one_file_that_is_killed_ends_as_one_that_is_not(place, chance):
    site, source = place
    load = FirstLoad(site, "epss")
    drip = DOWNLOAD_SECONDS * DRIP_BYTES / len(SCORES)
    source.answer("/scores", Answer(body=SCORES, content_type="application/gzip", etag='"1"', drip=drip))
    undisturbed = load.undisturbed()
    length = load.length()

    load.forget()
    found = []
    for _ in range(KILLS):
        before = len(source.requests)
        worker = site.run("worker")
        load.is_due()
        site.until(lambda before=before: len(source.requests) > before)
        time.sleep(chance.uniform(0, length))
        load.kill(worker)
        found.append(load.so_far())
        if load.is_complete():
            load.forget()
    load.finish()
    disturbed = load.end_state()

    print(f"{length:.2f} s undisturbed; at the kills: {found}")
    assert set(found) <= {("EMPTY", 0), ("COMPLETE", 3000)}
    assert set(load.outcomes()) <= {"LOST", "OK"}
    assert disturbed == undisturbed
    assert len(disturbed) == 3001
