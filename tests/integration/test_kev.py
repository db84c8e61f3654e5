from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from collectkit import Counts, acl_scope, group_ids, read_status
from collectkit.database import ledger_db
from collectkit.discovery import describe
from collectkit.migrate import migrate
from collectors.kev import tasks
from collectors.kev.models import Kev
from collectors.kev.tasks import KevSettings, kev_collector
from tests.replay import Answer, Replay

RECORDED = Path(__file__).parents[1] / "data" / "kev"
FEED = "/known_exploited_vulnerabilities.json"


def recorded(version: str) -> bytes:
    return gzip.decompress((RECORDED / f"known_exploited_vulnerabilities.{version}.json.gz").read_bytes())


def changed(body: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    catalog = json.loads(body)
    change(catalog)
    catalog["count"] = len(catalog["vulnerabilities"])
    return json.dumps(catalog).encode()


class Mirror:
    """The collector, its source and its table."""

    def __init__(self, source: Replay, database_url: str) -> None:
        self.source = source
        self._url = database_url

    def publish(self, body: bytes, etag: str | None = None) -> None:
        self.source.answer(FEED, Answer(body=body, etag=etag))

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SELECT set_config('collectkit.acl', %s, true)", [str(group_ids(["public"])[0])])
            return connection.execute(statement).fetchall()

    @property
    def live(self) -> int:
        return self.query("SELECT count(*) FROM kev WHERE gone_at IS NULL")[0][0]

    @property
    def rows(self) -> dict[str, str]:
        return dict(self.query("SELECT cve_id, xmin::text FROM kev"))

    @property
    def state(self) -> tuple[datetime | None, dict[str, Any]]:
        [state] = self.query("SELECT updated_until_dt, meta_attr FROM collectkit.collector")
        return state

    @property
    def results(self) -> list[str]:
        return [result for (result,) in self.query("SELECT result FROM collectkit.run ORDER BY id")]


@pytest.fixture
def mirror(db, monkeypatch):
    db.enrol(kev_collector)
    with Replay() as source:
        monkeypatch.setattr(tasks, "settings", KevSettings(url=source.base + FEED))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield Mirror(source, db.settings.database_url)


def test_the_first_catalogue_fills_the_table(mirror):
    mirror.publish(recorded("2026-07-27"))

    outcome = kev_collector.run_now()

    assert (outcome.outcome, outcome.reason, outcome.counts) == ("OK", None, Counts(inserted=1655))
    assert mirror.live == 1655
    assert mirror.results == ["catalogue 2026.07.27: 1,655 inserted"]


def test_what_a_year_has_brought_is_counted(mirror):
    mirror.publish(recorded("2025-08-25"))
    kev_collector.run_now()
    mirror.publish(recorded("2026-07-27"))

    assert kev_collector.run_now().counts == Counts(inserted=251, updated=36, unchanged=1368)
    assert mirror.live == 1655


def test_the_next_catalogue_writes_only_the_rows_that_differ(mirror):
    mirror.publish(recorded("2026-07-27"))
    kev_collector.run_now()
    before = mirror.rows

    mirror.publish(recorded("2026-08-04"))
    outcome = kev_collector.run_now()

    after = mirror.rows
    assert outcome.counts == Counts(inserted=5, updated=3, unchanged=1652)
    assert mirror.live == 1660
    assert len(after.keys() - before.keys()) == 5
    assert len([cve_id for cve_id in before if after[cve_id] != before[cve_id]]) == 3


def test_values_arrive_typed(mirror):
    mirror.publish(recorded("2026-08-04"))

    kev_collector.run_now()

    found = mirror.query(
        "SELECT vendor_project, date_added::text, due_date::text, known_ransomware_campaign_use, cwes, gone_at"
        " FROM kev WHERE cve_id = 'CVE-2026-18556'"
    )
    assert found == [("N-able", "2026-08-04", "2026-08-07", "Unknown", ["CWE-288"], None)]


def test_an_entry_that_is_no_longer_listed_is_marked_as_gone(mirror):
    mirror.publish(recorded("2024-09-19"))
    kev_collector.run_now()

    mirror.publish(recorded("2024-09-25"))
    outcome = kev_collector.run_now()

    assert outcome.counts == Counts(inserted=1, updated=1, unchanged=1179, removed=1)
    assert mirror.live == 1181
    gone = mirror.query("SELECT cve_id, gone_at <= clock_timestamp() FROM kev WHERE gone_at IS NOT NULL")
    assert gone == [("CVE-2024-43491", True)]


def test_an_entry_that_is_listed_again_is_no_longer_gone(mirror):
    mirror.publish(recorded("2024-09-19"))
    kev_collector.run_now()
    mirror.publish(recorded("2024-09-25"))
    kev_collector.run_now()

    again = changed(recorded("2024-09-19"), lambda catalog: catalog.update(dateReleased="2024-09-26T15:00:00Z"))
    mirror.publish(again)
    outcome = kev_collector.run_now()

    assert outcome.counts == Counts(updated=2, unchanged=1179, removed=1)
    assert mirror.query("SELECT gone_at FROM kev WHERE cve_id = 'CVE-2024-43491'") == [(None,)]


def test_the_cursor_is_stored_beside_the_watermark(mirror):
    mirror.publish(recorded("2026-07-27"))

    outcome = kev_collector.run_now()

    watermark, meta = mirror.state
    assert (meta["catalog_version"], meta["date_released"]) == ("2026.07.27", "2026-07-27T19:00:15.863200+00:00")
    assert watermark == outcome.updated_until == mirror.query("SELECT started_at FROM collectkit.run")[0][0]


def test_the_status_shows_the_cursor_and_not_what_fetch_keeps_for_itself(mirror):
    mirror.publish(recorded("2026-07-27"), etag='"1"')
    kev_collector.run_now()

    assert read_status()[kev_collector.name].cursor.keys() == {"catalog_version", "date_released"}


def test_a_catalogue_whose_entries_lack_a_field_says_which(mirror):
    def cut(catalog: dict[str, Any]) -> None:
        for entry in catalog["vulnerabilities"]:
            del entry["dueDate"]

    mirror.publish(changed(recorded("2026-07-27"), cut))

    assert "the first for: Object missing required field `dueDate`" in kev_collector.run_now().reason


def test_of_an_entry_that_is_listed_twice_the_last_is_taken_and_the_log_says_so(mirror, caplog):
    def repeat(catalog: dict[str, Any]) -> None:
        catalog["vulnerabilities"].append({**catalog["vulnerabilities"][0], "dateAdded": "2026-07-29"})

    mirror.publish(changed(recorded("2026-07-27"), repeat))

    outcome = kev_collector.run_now()

    assert outcome.counts == Counts(inserted=1655, rejected=1)
    assert mirror.query("SELECT date_added::text FROM kev WHERE cve_id = 'CVE-2025-68686'") == [("2026-07-29",)]
    assert "rows superseded by a later row of the same key: 1" in caplog.text


def test_a_dry_run_counts_and_leaves_everything_alone(mirror):
    mirror.publish(recorded("2026-07-27"))
    state = mirror.state

    outcome = kev_collector.run_now(dry_run=True)

    assert (outcome.outcome, outcome.counts) == ("OK", Counts(inserted=1655))
    assert mirror.live == 0
    assert mirror.state == state


def test_the_table_is_open_to_the_group_public_alone(mirror):
    mirror.publish(recorded("2026-07-27"))
    kev_collector.run_now()

    assert Kev.select().count() == 0
    with acl_scope(["internal", "public-write"]):
        assert Kev.select().count() == 0
    with acl_scope(["public"]):
        assert Kev.select().count() == 1655


OLD = """
CREATE TABLE kev AS
SELECT cve_id, 'A vendor' AS vendor_project, 'product' AS product, 'name' AS vulnerability_name,
       date '2026-01-01' AS date_added, 'text' AS short_description, 'action' AS required_action,
       date '2026-01-01' AS due_date, NULL AS known_ransomware_campaign_use, '' AS notes, '{}'::text[] AS cwes,
       NULL::timestamptz AS gone_at
  FROM unnest(ARRAY['CVE-2025-68686', 'CVE-1999-0001']) cve_id
"""


def test_a_table_from_before_the_access_groups_is_migrated_with_its_rows(mirror):
    for statement in ("DROP TABLE kev", "DROP TABLE collectkit.migration_collectors_kev", OLD):
        ledger_db.run(statement)
    ledger_db.run("ALTER TABLE kev ADD PRIMARY KEY (cve_id)")

    done = migrate(describe([kev_collector]))

    assert done == [
        "applied migration 0001_kev of collectors.kev",
        "applied migration 0002_access_groups of collectors.kev",
        'secured table "public"."kev"',
        'indexed acl_read of table "public"."kev"',
        'indexed acl_write of table "public"."kev"',
    ]
    assert Kev.select().count() == 0
    with acl_scope(["public"]):
        assert Kev.select().count() == 2
    mirror.publish(recorded("2026-07-27"))
    assert kev_collector.run_now().reason.count("1 of 2 rows no longer listed") == 1
