from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from collectkit import Counts, acl_scope, download, group_ids, read_status
from collectkit.database import ledger_db
from collectkit.served import find_served
from collectors.osv import tasks
from collectors.osv.models import Osv
from collectors.osv.tasks import OsvSettings, osv_collector
from tests.replay import Answer, Replay

RECORDED = Path(__file__).parents[1] / "data" / "osv"
OLD, NEW = "2026-06-01", "2026-08-21"
CRATES = "crates.io"
NEWEST_OLD = "2026-05-27T15:33:53+00:00"
UNDATED = "0001-01-01T00:00:00Z"

Records = dict[str, dict[str, Any]]


def recorded(version: str) -> Records:
    with zipfile.ZipFile(RECORDED / f"crates.io.{version}.zip") as archive:
        found = [json.loads(archive.read(name)) for name in archive.namelist()]
    return {record["id"]: record for record in found}


def record(id_: str, modified: str, ecosystem: str = CRATES, **more: Any) -> dict[str, Any]:
    affected = [{"package": {"ecosystem": ecosystem, "name": "left-pad"}}]
    return {"id": id_, "modified": modified, "affected": affected, **more}


class Bucket:
    """osv.dev's bucket, and the table that mirrors it."""

    def __init__(self, source: Replay, database_url: str) -> None:
        self.source = source
        self._url = database_url

    def publish(self, records: Records, ecosystem: str = CRATES, *, archive: Records | None = None) -> None:
        """Put the index, the files of all records and the archive into the ecosystem's folder."""
        folder = f"/osv/{quote(ecosystem)}"
        listed = sorted(((each["modified"], name) for name, each in records.items()), reverse=True)
        index = "".join(f"{modified},{name}\n" for modified, name in listed).encode()
        self.source.answer(f"{folder}/modified_id.csv", Answer(body=index, content_type="text/csv"))
        for name, each in records.items():
            self.source.answer(f"{folder}/{name}.json", Answer(body=json.dumps(each).encode()))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
            for name, each in (records if archive is None else archive).items():
                into.writestr(zipfile.ZipInfo(f"{name}.json"), json.dumps(each))
        self.source.answer(f"{folder}/all.zip", Answer(body=packed.getvalue(), content_type="application/zip"))

    @property
    def asked(self) -> list[str]:
        """The files that were asked for since the last look."""
        found = [request.target.rpartition("/")[2] for request in self.source.requests]
        self.source.requests.clear()
        return found

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SELECT set_config('collectkit.acl', %s, true)", [str(group_ids(["public"])[0])])
            return connection.execute(statement).fetchall()

    @property
    def rows(self) -> dict[str, str]:
        return dict(self.query("SELECT id, xmin::text FROM osv WHERE gone_at IS NULL"))

    @property
    def cursor(self) -> str | None:
        return read_status()[f"{osv_collector.name}[{CRATES}]"].cursor.get("modified")


@pytest.fixture
def bucket(db, monkeypatch):
    with Replay() as source:
        monkeypatch.setattr(tasks, "settings", OsvSettings(url=f"{source.base}/osv/", ecosystems=(CRATES, "Go")))
        monkeypatch.setattr(download, "_sleep", lambda _: None)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        db.enrol(osv_collector)
        yield Bucket(source, db.settings.database_url)


def run(key: str = CRATES, **options: Any) -> Any:
    outcome = osv_collector.run_now(key=key, **options)
    assert outcome.reason is None, outcome.reason
    return outcome


def a_week_passes() -> None:
    ledger_db.run(
        "UPDATE collectkit.collector SET meta_attr = meta_attr || jsonb_build_object('reconciled',"
        " ((meta_attr->>'reconciled')::timestamptz - interval '7 days')::text)"
    )


class TestArchive:
    def test_the_first_load_is_one_archive(self, bucket):
        bucket.publish(recorded(OLD))

        outcome = run()

        assert outcome.counts == Counts(inserted=140)
        assert bucket.asked == ["modified_id.csv", "all.zip"]
        assert bucket.cursor == NEWEST_OLD

    def test_values_arrive_typed(self, bucket):
        bucket.publish(recorded(NEW))

        run()

        [found] = bucket.query(
            "SELECT ecosystem, modified, published, withdrawn, aliases, summary, severity->0->>'type',"
            " affected->0->'package'->>'name' FROM osv WHERE id = 'RUSTSEC-2026-0150'"
        )
        assert found == (
            CRATES,
            datetime(2026, 5, 27, 15, 33, 53, tzinfo=UTC),
            datetime(2026, 5, 21, 12, tzinfo=UTC),
            None,
            [],
            "audiopus_sys is unmaintained",
            None,
            "audiopus_sys",
        )

    def test_what_was_withdrawn_is_kept(self, bucket):
        bucket.publish(recorded(OLD))

        run()

        assert bucket.query("SELECT count(*) FROM osv WHERE withdrawn IS NOT NULL AND gone_at IS NULL") == [(6,)]

    def test_a_week_later_what_is_listed_no_longer_is_marked_as_gone(self, bucket):
        records = recorded(OLD)
        bucket.publish(records)
        run()
        a_week_passes()

        del records["RUSTSEC-2026-0150"]
        bucket.publish(records)
        outcome = run()

        assert outcome.counts == Counts(unchanged=139, removed=1)
        assert bucket.query("SELECT id FROM osv WHERE gone_at IS NOT NULL") == [("RUSTSEC-2026-0150",)]

    def test_what_the_index_lists_is_not_gone_for_an_archive_that_does_not_have_it_yet(self, bucket):
        records = recorded(OLD)
        early = {"NEW-1": record("NEW-1", "2026-05-20T00:00:00Z"), "NEW-2": record("NEW-2", "2026-05-20T00:00:00Z")}
        bucket.publish(records | early)
        run()
        before = bucket.rows
        a_week_passes()

        del records["RUSTSEC-2026-0150"]
        bucket.publish(records | early, archive=records)
        outcome = run()

        assert outcome.counts == Counts(unchanged=141, removed=1)
        assert bucket.rows == {name: version for name, version in before.items() if name != "RUSTSEC-2026-0150"}

    def test_an_archive_that_lacks_more_than_a_day_brings_is_refused(self, bucket, monkeypatch):
        monkeypatch.setattr(tasks, "MANY", 1)
        records = recorded(OLD)
        bucket.publish(records)
        run()
        before = bucket.rows
        a_week_passes()

        bucket.publish(records, archive=dict(list(records.items())[5:]))
        outcome = osv_collector.run_now(key=CRATES)

        assert outcome.outcome == "FAILED"
        assert "lacks 5 of the 140 records that its index lists" in outcome.reason
        assert bucket.rows == before

    def test_a_week_later_the_records_win_over_an_archive_that_is_older(self, bucket):
        records = recorded(OLD)
        bucket.publish(records)
        run()
        changed = {**records, "RUSTSEC-2026-0150": {**records["RUSTSEC-2026-0150"], "summary": "changed"}}
        late = {"NEW-1": record("NEW-1", "2026-05-28T00:00:00Z")}
        bucket.publish(changed | late, archive=records)
        run()
        before = bucket.rows
        a_week_passes()

        outcome = run()

        assert outcome.counts == Counts(unchanged=141)
        assert bucket.rows == before

    def test_an_archive_that_is_the_same_a_week_later_is_not_read(self, bucket):
        records = {"NEW-1": record("NEW-1", "2026-06-01T00:00:00Z")}
        bucket.publish(records)
        run()
        a_week_passes()

        assert run().counts == Counts(unchanged=1)
        assert read_status()[f"{osv_collector.name}[{CRATES}]"].last_run.result == "archive unchanged: 1 unchanged"


class TestChanges:
    def test_the_recorded_versions_differ_in_63_new_and_7_changed_rows(self, bucket):
        bucket.publish(recorded(OLD))
        run()
        before = bucket.rows

        bucket.publish(recorded(NEW))
        outcome = run()

        after = bucket.rows
        assert (outcome.counts.inserted, outcome.counts.updated, outcome.counts.removed) == (63, 7, 0)
        assert len([name for name in before if after[name] != before[name]]) == 7
        assert "all.zip" not in bucket.asked[2:]

    def test_an_index_that_is_the_same_costs_one_request(self, bucket):
        bucket.publish(recorded(OLD))
        run()
        first = read_status()[f"{osv_collector.name}[{CRATES}]"].updated_until
        assert bucket.asked

        outcome = run()

        assert (bucket.asked, outcome.counts) == (["modified_id.csv"], Counts())
        assert outcome.updated_until > first
        assert bucket.cursor == NEWEST_OLD

    def test_records_of_the_last_date_and_of_the_day_before_it_are_asked_for_again(self, bucket):
        records = {
            name: record(name, modified)
            for name, modified in {
                "NEWEST": "2026-05-27T15:00:00Z",
                "TIE": "2026-05-27T15:00:00Z",
                "IN-A-DAY": "2026-05-26T15:00:00Z",
                "BEFORE": "2026-05-26T14:59:59Z",
            }.items()
        }
        bucket.publish(records)
        run()
        assert bucket.asked

        changed = {name: {**each, "summary": "changed"} for name, each in records.items()}
        bucket.publish(changed | {"LATE-TIE": record("LATE-TIE", "2026-05-27T15:00:00Z")})
        outcome = run()

        again = {"NEWEST.json", "TIE.json", "LATE-TIE.json", "IN-A-DAY.json"}
        assert set(bucket.asked) == {"modified_id.csv"} | again
        assert outcome.counts == Counts(inserted=1, updated=3)

    def test_a_record_that_is_listed_but_not_there_has_the_archive_read(self, bucket):
        records = recorded(OLD)
        bucket.publish(records)
        run()
        assert bucket.asked

        dangling = record("DANGLING", "2026-05-28T00:00:00Z")
        old = {name: each for name, each in records.items() if name != "RUSTSEC-2016-0001"}
        bucket.publish({**records, "DANGLING": dangling}, archive=old)
        bucket.source.answer(f"/osv/{CRATES}/DANGLING.json", Answer(status=404))
        outcome = run()

        assert outcome.counts == Counts(unchanged=140)
        assert bucket.asked[-2:] == ["all.zip", "RUSTSEC-2016-0001.json"]
        assert bucket.cursor == "2026-05-28T00:00:00+00:00"

    def test_many_changes_are_read_from_the_archive(self, bucket, monkeypatch):
        monkeypatch.setattr(tasks, "MANY", 60)
        bucket.publish(recorded(OLD))
        run()
        assert bucket.asked

        bucket.publish(recorded(NEW))
        outcome = run()

        assert bucket.asked == ["modified_id.csv", "all.zip"]
        assert (outcome.counts.inserted, outcome.counts.updated, outcome.counts.removed) == (63, 7, 0)

    def test_a_date_in_the_future_does_not_carry_the_cursor_away(self, bucket):
        ahead = (datetime.now(UTC) + timedelta(days=400)).isoformat()
        records = {"A": record("A", "2026-05-27T15:00:00Z"), "AHEAD": record("AHEAD", ahead)}
        bucket.publish(records)

        run()

        assert datetime.fromisoformat(bucket.cursor) <= datetime.now(UTC)

    @pytest.mark.parametrize(
        ("index", "reason"),
        [
            pytest.param(b"2026-05-27T15:33:53Z\n", "line 1 is no time and id", id="no-id"),
            pytest.param(b"2026-05-27T15:33:53Z,A\nyesterday,B\n", "line 2 is no time and id", id="no-time"),
            pytest.param(b"\n", "line 1 is no time and id", id="blank"),
            pytest.param(b"", "sent an empty body", id="empty"),
        ],
    )
    def test_a_broken_index_fails_in_one_line_and_the_old_rows_stand(self, bucket, index, reason):
        bucket.publish(recorded(OLD))
        run()
        before = bucket.rows

        bucket.source.answer(f"/osv/{CRATES}/modified_id.csv", Answer(body=index, content_type="text/csv"))
        outcome = osv_collector.run_now(key=CRATES)

        assert (outcome.outcome, bucket.rows) == ("FAILED", before)
        assert reason in outcome.reason


class TestUndated:
    """Go's publishers write the year 1 into every record."""

    def test_what_nobody_has_filled_in_is_null(self, bucket):
        bucket.publish({"GO-1": record("GO-1", UNDATED, "Go", published=UNDATED)}, "Go")

        run("Go")

        assert bucket.query("SELECT id, modified, published FROM osv") == [("GO-1", None, None)]

    def test_the_archive_is_asked_for_each_time(self, bucket):
        records = {name: record(name, UNDATED, "Go") for name in ("GO-1", "GO-2")}
        bucket.publish(records, "Go")
        run("Go")

        changed = {**records["GO-2"], "summary": "changed"}
        bucket.publish({**records, "GO-2": changed}, "Go")
        outcome = run("Go")

        assert outcome.counts == Counts(updated=1, unchanged=1)

    def test_an_archive_that_is_the_same_moves_the_watermark_alone(self, bucket):
        bucket.publish({"GO-1": record("GO-1", UNDATED, "Go")}, "Go")
        first = run("Go")

        second = run("Go")

        assert second.counts == Counts()
        assert second.updated_until > first.updated_until

    def test_one_undated_record_among_dated_ones_is_asked_for_each_time_the_index_changes(self, bucket):
        records = {"A": record("A", "2026-01-01T00:00:00Z"), "B": record("B", "2026-05-27T15:00:00Z")}
        bucket.publish({**records, "U": record("U", UNDATED)})
        run()

        changed = record("U", UNDATED, summary="changed")
        bucket.publish(records | {"U": changed, "C": record("C", "2026-05-28T00:00:00Z")})
        outcome = run()

        assert outcome.counts == Counts(inserted=1, updated=1, unchanged=1)

    def test_without_an_index_the_archive_is_all_there_is(self, bucket):
        bucket.publish({"A": record("A", "2026-01-01T00:00:00Z")})
        bucket.source.answer(f"/osv/{CRATES}/modified_id.csv", Answer(status=404))

        assert run().counts == Counts(inserted=1)
        assert run().counts == Counts()

    def test_dates_that_are_no_longer_filled_in_hold_nothing_up(self, bucket):
        bucket.publish({name: record(name, "2026-01-01T00:00:00Z") for name in ("A", "B")})
        run()

        bucket.publish({name: record(name, UNDATED, summary="changed") for name in ("A", "B")})

        assert run().counts == Counts(updated=2)

    def test_an_index_that_was_missing_once_makes_no_older_record_welcome(self, bucket):
        old = {"A": record("A", "2026-01-01T00:00:00Z"), "B": record("B", "2026-01-01T00:00:00Z")}
        bucket.publish(old)
        run()
        new = {**old, "A": record("A", "2026-01-02T00:00:00Z", summary="new")}
        bucket.publish(new, archive=old)
        run()
        bucket.source.answer(f"/osv/{CRATES}/modified_id.csv", Answer(status=404))
        run()
        before = bucket.rows

        bucket.publish(new, archive={**old, "C": record("C", "2026-01-01T12:00:00Z")})
        outcome = run()

        assert outcome.counts == Counts(inserted=1, unchanged=1, rejected=1)
        assert before.items() <= bucket.rows.items()


class TestEcosystems:
    def test_each_is_a_collector_of_its_own_and_misses_no_row_of_another(self, bucket):
        bucket.publish(recorded(OLD))
        bucket.publish({"GO-1": record("GO-1", UNDATED, "Go")}, "Go")

        assert run().counts == Counts(inserted=140)
        assert run("Go").counts == Counts(inserted=1)
        a_week_passes()
        assert run().counts.removed == 0

        assert bucket.query("SELECT ecosystem, count(*) FROM osv GROUP BY 1 ORDER BY 1") == [("Go", 1), (CRATES, 140)]

    def test_a_record_of_several_says_the_same_whichever_lists_it(self, bucket):
        packages = [{"package": {"ecosystem": name, "name": "x"}} for name in ("npm", "Go", CRATES)]
        shared = {"GHSA-1": {"id": "GHSA-1", "modified": "2026-01-01T00:00:00Z", "affected": packages}}
        bucket.publish(shared)
        bucket.publish(shared, "Go")

        run()
        outcome = run("Go")

        assert outcome.counts == Counts(unchanged=1)
        assert bucket.query("SELECT ecosystem FROM osv") == [("Go",)]

    def test_an_archive_is_no_newer_than_a_row_that_another_ecosystem_has_written(self, bucket):
        packages = [{"package": {"ecosystem": name, "name": "x"}} for name in (CRATES, "Go")]
        new = record("GHSA-1", "2026-02-01T00:00:00Z", affected=packages, summary="new")
        old = {**new, "modified": "2026-01-01T00:00:00Z", "summary": "old"}
        bucket.publish({"GHSA-1": new})
        bucket.publish({"GO-1": record("GO-1", UNDATED, "Go"), "GHSA-1": old}, "Go")

        run()
        outcome = run("Go")

        assert outcome.counts == Counts(inserted=1, rejected=1)
        assert bucket.query("SELECT summary FROM osv WHERE id = 'GHSA-1'") == [("new",)]

    def test_the_release_behind_a_colon_is_not_part_of_it(self, bucket):
        bucket.publish({"DSA-1": record("DSA-1", "2026-01-01T00:00:00Z", "Go:1.26")})

        run()

        assert bucket.query("SELECT ecosystem FROM osv") == [("Go",)]

    def test_a_record_that_affects_no_package_is_of_the_one_that_lists_it(self, bucket):
        bucket.publish({"A": {"id": "A", "modified": "2026-01-01T00:00:00Z", "affected": None}})

        run()

        assert bucket.query("SELECT ecosystem, affected, severity FROM osv") == [(CRATES, [], [])]

    def test_those_of_the_settings_are_the_instances(self):
        settings = OsvSettings.load("OSV_COLLECTOR", {"OSV_COLLECTOR_ECOSYSTEMS": "PyPI, npm,Red Hat"})

        assert settings.ecosystems == ("PyPI", "npm", "Red Hat")
        assert OsvSettings().ecosystems == (CRATES, "Go", "PyPI")


def test_the_table_is_served_and_open_to_the_group_public_alone(bucket):
    bucket.publish(recorded(OLD))
    run()

    assert find_served("osv").sealed
    assert Osv.select().count() == 0
    with acl_scope(["public"]):
        assert Osv.select().count() == 140


def test_a_file_of_the_archive_that_cannot_be_read_at_all_is_set_aside_and_its_row_stays(bucket):
    records = recorded(OLD)
    bucket.publish(records)
    run()
    a_week_passes()

    broken: Records = {**records, "RUSTSEC-2016-0001": "not JSON of a record"}  # type: ignore[dict-item]
    bucket.publish(records, archive=broken)
    outcome = run()

    assert outcome.counts == Counts(unchanged=139, rejected=1)
    assert len(bucket.rows) == 140


def test_after_a_rewind_records_are_taken_that_are_older_than_their_rows(bucket):
    records = recorded(OLD)
    bucket.publish({name: {**each, "modified": "2026-06-01T00:00:00Z"} for name, each in records.items()})
    run()

    bucket.publish(records)
    assert run().counts == Counts()
    ledger_db.run("UPDATE collectkit.collector SET meta_attr = '{}'")  # what a rewind drops
    outcome = run()

    assert outcome.counts == Counts(updated=140)
