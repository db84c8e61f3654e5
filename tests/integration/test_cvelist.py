from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from collectkit import Counts, group_ids
from collectors.cvelist import tasks
from collectors.cvelist.tasks import CvelistSettings, cvelist_collector
from tests.githttp import serve_git
from tests.replay import Replay
from tests.upstream import Upstream, files_of

RECORDED = Path(__file__).parents[1] / "data" / "cvelist"
MONDAY = files_of(RECORDED / "vulnrichment-2024-10-21.zip")
THURSDAY = files_of(RECORDED / "vulnrichment-2024-10-24.zip")
DAYS = [datetime(2024, 10, day, tzinfo=UTC) for day in (21, 24, 25)]


class Mirror:
    """The collector, its source and its table."""

    def __init__(self, upstream: Upstream, database_url: str) -> None:
        self.upstream = upstream
        self._url = database_url

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SELECT set_config('collectkit.acl', %s, true)", [str(group_ids(["public"])[0])])
            return connection.execute(statement).fetchall()

    def forget(self, **cursor: str) -> None:
        """Put another cursor in the place of the stored one."""
        with psycopg.connect(self._url) as connection:
            connection.execute("UPDATE collectkit.collector SET meta_attr = %s", [Jsonb(cursor)])

    @property
    def rows(self) -> dict[str, str]:
        return dict(self.query("SELECT cve_id, xmin::text FROM cvelist"))

    @property
    def gone(self) -> list[str]:
        return [cve_id for (cve_id,) in self.query("SELECT cve_id FROM cvelist WHERE gone_at IS NOT NULL ORDER BY 1")]

    @property
    def states(self) -> dict[str, int]:
        return dict(self.query("SELECT state, count(*) FROM cvelist GROUP BY state"))

    @property
    def state(self) -> tuple[datetime | None, dict[str, Any]]:
        [state] = self.query("SELECT updated_until_dt, meta_attr FROM collectkit.collector")
        return state

    @property
    def result(self) -> str:
        return self.query("SELECT result FROM collectkit.run ORDER BY id DESC LIMIT 1")[0][0]


@pytest.fixture
def mirror(db, monkeypatch, tmp_path):
    db.enrol(cvelist_collector)
    upstream = Upstream(tmp_path / "upstream")
    monkeypatch.setattr(tasks, "settings", CvelistSettings(url=upstream.url))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    return Mirror(upstream, db.settings.database_url)


@pytest.fixture
def loaded(mirror):
    """The mirror with Monday's records in it."""
    mirror.upstream.publish(MONDAY, at=DAYS[0])
    assert cvelist_collector.run_now().counts == Counts(inserted=38)
    return mirror


def path_of(cve_id: str) -> str:
    _, year, number = cve_id.split("-")
    return f"cves/{year}/{number[:-3]}xxx/{cve_id}.json"


def test_the_first_run_reads_every_record_and_nothing_else(mirror):
    commit = mirror.upstream.publish({**MONDAY, "README.md": b"#", "cves/delta.json": b"{}"}, at=DAYS[0])

    outcome = cvelist_collector.run_now()

    assert (outcome.outcome, outcome.reason, outcome.counts) == ("OK", None, Counts(inserted=38))
    assert mirror.states == {"PUBLISHED": 34, "REJECTED": 4}
    assert mirror.result == f"commit {commit[:12]}, all files: 38 inserted"


def test_the_next_run_reads_and_writes_only_what_differs(loaded):
    before = loaded.rows
    first = loaded.state[1]["commit"]

    commit = loaded.upstream.publish(THURSDAY, at=DAYS[1])
    outcome = cvelist_collector.run_now()

    after = loaded.rows
    assert outcome.counts == Counts(inserted=14, updated=15)
    assert len(after.keys() - before.keys()) == 14
    assert len([cve_id for cve_id in before if after[cve_id] != before[cve_id]]) == 15
    assert loaded.result == f"commit {commit[:12]}, since {first[:12]}: 14 inserted, 15 updated"


def test_over_http_no_more_is_asked_for_than_what_differs(mirror, monkeypatch):
    packs = []

    def weigh(good, holds_objects):
        packs.extend([len(good.body)] * holds_objects)
        return good

    with Replay() as source:
        url = serve_git(source, "/cvelist.git", mirror.upstream.directory, spoil=weigh)
        monkeypatch.setattr(tasks, "settings", CvelistSettings(url=url))
        mirror.upstream.publish({"history": os.urandom(1 << 20)})

        known = mirror.upstream.publish(MONDAY, at=DAYS[0])
        first = cvelist_collector.run_now()
        mirror.upstream.publish(THURSDAY, at=DAYS[1])
        second = cvelist_collector.run_now()
        told = mirror.result
        third = cvelist_collector.run_now()

    assert (first.reason, second.reason, third.reason) == (None, None, None)
    assert (first.counts, second.counts) == (Counts(inserted=38), Counts(inserted=14, updated=15))
    assert f"since {known[:12]}: " in told
    assert mirror.result == "unchanged"
    whole, difference, nothing = packs
    assert nothing < 1000 < difference < whole < 1 << 20


def test_a_record_that_is_rejected_stays_with_the_reason(loaded):
    assert loaded.query("SELECT state, title IS NULL FROM cvelist WHERE cve_id = 'CVE-2024-25285'") == [
        ("PUBLISHED", True)
    ]

    loaded.upstream.publish(THURSDAY, at=DAYS[1])
    cvelist_collector.run_now()

    [(state, description, affected)] = loaded.query(
        "SELECT state, description, affected FROM cvelist WHERE cve_id = 'CVE-2024-25285'"
    )
    assert (state, affected) == ("REJECTED", [])
    assert description.startswith("DO NOT USE THIS CANDIDATE NUMBER. Reason: This candidate was issued in error.")
    assert loaded.states == {"PUBLISHED": 44, "REJECTED": 8}


def test_cursor_and_watermark_are_stored_together_and_the_same_commit_moves_the_watermark_alone(mirror):
    commit = mirror.upstream.publish(MONDAY, at=DAYS[0])

    first = cvelist_collector.run_now()
    state = mirror.state
    second = cvelist_collector.run_now()

    assert state == (first.updated_until, {"commit": commit, "committed_at": "2024-10-21T00:00:00+00:00"})
    assert (second.counts, mirror.result) == (Counts(), "unchanged")
    assert mirror.state[0] > state[0]
    assert mirror.state[1] == state[1]


def test_a_commit_that_nobody_knows_any_more_makes_a_full_pass_that_writes_only_what_differs(loaded):
    before = loaded.rows
    loaded.forget(commit="0" * 40)

    loaded.upstream.publish(THURSDAY, at=DAYS[1])
    outcome = cvelist_collector.run_now()

    assert outcome.counts == Counts(inserted=14, updated=15, unchanged=23)
    assert len([cve_id for cve_id in before if loaded.rows[cve_id] != before[cve_id]]) == 15


def test_a_host_without_a_clone_goes_on_from_the_cursor(loaded, db):
    (db.settings.state_dir / "git").rename(db.settings.state_dir / "elsewhere")

    loaded.upstream.publish(THURSDAY, at=DAYS[1])

    assert cvelist_collector.run_now().counts == Counts(inserted=14, updated=15)


def test_a_rewritten_history_is_followed(loaded):
    loaded.upstream.publish(THURSDAY, at=DAYS[1], anew=True)

    assert cvelist_collector.run_now().counts == Counts(inserted=14, updated=15)


def test_a_file_that_vanished_is_marked_as_gone_and_back_when_it_comes_back(loaded):
    victim = path_of("CVE-2024-25285")

    loaded.upstream.publish({path: body for path, body in MONDAY.items() if path != victim}, at=DAYS[1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("collectors.cvelist.tasks.MAX_SHRINK", 0.1)
        went = cvelist_collector.run_now()
    gone = loaded.gone
    loaded.upstream.publish(MONDAY, at=DAYS[2])
    came = cvelist_collector.run_now()

    assert (went.counts, gone) == (Counts(removed=1), ["CVE-2024-25285"])
    assert (came.counts, loaded.gone) == (Counts(updated=1), [])


def test_a_file_that_moved_is_not_gone(loaded):
    moved = {str(path).replace("cves/", "records/"): body for path, body in MONDAY.items()}

    loaded.upstream.publish(moved, at=DAYS[1])
    outcome = cvelist_collector.run_now()

    assert outcome.counts == Counts(unchanged=38)
    assert loaded.gone == []


def poisoned(number: int) -> dict[str | bytes, bytes]:
    """Thursday's records, so many of those that changed broken in as many ways."""
    changed = sorted(path for path in THURSDAY if MONDAY.get(path) not in {None, THURSDAY[path]})
    ways = [
        lambda body: body[: len(body) // 2],
        lambda body: json.dumps({**json.loads(body), "containers": {}}).encode(),
        lambda body: body.replace(b'"value": "', b'"value": "\\u0000'),
        lambda body: body.replace(b'"cveId": "CVE-', b'"cveId": "CVE-1'),
        lambda _: b"<html>",
    ]
    return {**THURSDAY, **{path: ways[n % len(ways)](THURSDAY[path]) for n, path in enumerate(changed[:number])}}


@pytest.mark.parametrize("way", range(5))
def test_a_poison_record_is_set_aside_and_its_old_row_stands(loaded, way):
    changed = sorted(path for path in THURSDAY if MONDAY.get(path) not in {None, THURSDAY[path]})
    victim = changed[way]
    before = loaded.rows

    loaded.upstream.publish({**THURSDAY, victim: poisoned(5)[victim]}, at=DAYS[1])
    outcome = cvelist_collector.run_now()

    cve_id = Path(str(victim)).stem
    assert outcome.outcome == "OK", outcome.reason
    assert outcome.counts == Counts(inserted=14, updated=14, rejected=1)
    assert loaded.rows[cve_id] == before[cve_id]
    assert loaded.query("SELECT count(*) FROM collectkit.rejected") == [(1,)]


def test_a_poison_record_in_a_full_pass_is_not_gone(mirror):
    mirror.upstream.publish(MONDAY, at=DAYS[0])
    cvelist_collector.run_now()
    victim = path_of("CVE-2024-25285")
    mirror.forget()

    mirror.upstream.publish({**MONDAY, victim: b"{"}, at=DAYS[1])
    outcome = cvelist_collector.run_now()

    assert outcome.counts == Counts(unchanged=37, rejected=1)
    assert mirror.gone == []


def test_a_repository_without_any_record_is_refused_as_a_first_load(mirror):
    mirror.upstream.publish({"README.md": b"#"})

    outcome = cvelist_collector.run_now()

    assert outcome.outcome == "FAILED"
    assert "the source gave no rows at all" in outcome.reason


def test_a_broken_clone_fails_one_run_and_the_next_one_makes_it_anew(loaded, db):
    loaded.upstream.publish(THURSDAY, at=DAYS[1])
    cvelist_collector.run_now(dry_run=True)
    before, state = loaded.rows, loaded.state
    victim = loaded.upstream.git("rev-parse", f"HEAD:{path_of('CVE-2024-25285')}")
    [blob] = db.settings.state_dir.glob(f"git/*/0/clone/objects/{victim[:2]}/{victim[2:]}")
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-20])

    broken = cvelist_collector.run_now()

    assert (broken.outcome, broken.counts) == ("FAILED", Counts())
    assert "the clone is broken and will be made anew" in broken.reason
    assert "\n" not in broken.reason
    assert (loaded.rows, loaded.state) == (before, state)
    assert cvelist_collector.run_now().counts == Counts(inserted=14, updated=15)


def test_a_dry_run_counts_and_the_real_one_still_compares_with_the_cursor(loaded):
    before, state = loaded.rows, loaded.state
    loaded.upstream.publish(THURSDAY, at=DAYS[1])

    dry = cvelist_collector.run_now(dry_run=True)

    assert (dry.outcome, dry.counts) == ("OK", Counts(inserted=14, updated=15))
    assert (loaded.rows, loaded.state) == (before, state)
    assert cvelist_collector.run_now().counts == Counts(inserted=14, updated=15)
