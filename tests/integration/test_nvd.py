from __future__ import annotations

import copy
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import psycopg
import pytest

from collectkit import Counts, RateLimit, acl_scope, download, group_ids, read_status
from collectkit.database import ledger_db
from collectkit.served import find_served
from collectors.nvd import tasks
from collectors.nvd.models import Nvd
from collectors.nvd.tasks import NvdSettings, nvd_collector
from tests.nvd_api import RECORDED, NvdApi, modified, recorded
from tests.replay import Answer, Replay

OLD, NEW = "2025-06-23", "2026-03-07"
FIRST_ANSWER = datetime(2025, 6, 23, 22, 2, 16, 739000, tzinfo=UTC)
CHANGED = ["CVE-1999-0035", "CVE-1999-0159", "CVE-1999-0468"]
NO_SCORE = (None, None)


class Mirror:
    """The collector, its source and its table."""

    def __init__(self, source: Replay, database_url: str) -> None:
        self.api = NvdApi(source, recorded(OLD), timestamp="2025-06-23T22:02:16.739")
        self.source = source
        self._url = database_url

    def load(self) -> None:
        """Be complete as of the first recorded answer."""
        assert nvd_collector.run_now().outcome == "OK"
        self.api.asked.clear()
        self.api.timestamp = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")

    def touch(self, number: int, when: datetime, **changes: Any) -> None:
        """Modify a record at the source."""
        record = copy.deepcopy(self.api.records[number])
        record["cve"].update(changes, lastModified=when.isoformat(timespec="milliseconds").removesuffix("+00:00"))
        self.api.records[number] = record

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SELECT set_config('collectkit.acl', %s, true)", [str(group_ids(["public"])[0])])
            return connection.execute(statement).fetchall()

    @property
    def ids(self) -> set[str]:
        return {cve_id for (cve_id,) in self.query("SELECT cve_id FROM nvd")}

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT * FROM nvd ORDER BY cve_id")

    @property
    def status(self) -> Any:
        return read_status()[nvd_collector.name]


@pytest.fixture
def mirror(db, monkeypatch):
    db.enrol(nvd_collector)
    with Replay() as source:
        made = Mirror(source, db.settings.database_url)
        monkeypatch.setattr(tasks, "settings", NvdSettings(url=made.api.url))
        monkeypatch.setattr(tasks, "LIMIT", RateLimit(1000, timedelta(seconds=1)))
        monkeypatch.setattr(download, "_sleep", lambda _: None)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield made


def all_ids(mirror: Mirror) -> set[str]:
    return {record["cve"]["id"] for record in mirror.api.records}


class TestFirstLoad:
    def test_it_pages_through_everything_and_is_complete_until_the_first_answer(self, mirror):
        mirror.api.most = 100

        outcome = nvd_collector.run_now()

        assert (outcome.outcome, outcome.counts) == ("OK", Counts(inserted=250))
        assert mirror.api.starts == [0, 100, 200]
        assert mirror.ids == all_ids(mirror)
        assert (mirror.status.data, mirror.status.updated_until) == ("COMPLETE", FIRST_ANSWER)
        assert mirror.status.cursor.keys() == {"read_whole"}
        assert msgspec.to_builtins(mirror.status.progress) == {"done": 250, "total": 250}

    def test_the_server_is_asked_for_as_much_as_it_gives_and_for_no_window(self, mirror):
        nvd_collector.run_now()

        assert mirror.api.asked == [{"startIndex": "0", "resultsPerPage": "2000"}]

    def test_values_arrive_typed(self, mirror):
        answer = msgspec.json.decode((RECORDED / "cve.CVE-2024-7450.json").read_bytes())
        mirror.api.records = [*answer["vulnerabilities"], *mirror.api.records[:1]]

        nvd_collector.run_now()

        [new, old] = mirror.query(
            "SELECT status, published, last_modified, cvss_v2_score, cvss_v2_vector, cvss_v30_score, cvss_v31_score,"
            " cvss_v31_vector, cvss_v40_score, left(cvss_v40_vector, 13), weaknesses FROM nvd ORDER BY cve_id DESC"
        )
        assert new == (
            "Analyzed",
            datetime(2024, 8, 4, 3, 15, 38, 690000, tzinfo=UTC),
            datetime(2024, 8, 9, 15, 33, 58, 153000, tzinfo=UTC),
            Decimal("6.0"),
            "AV:N/AC:M/Au:S/C:P/I:P/A:P",
            None,
            Decimal("8.8"),
            "CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H",
            Decimal("8.7"),  # NVD's own; the other party says 5.3
            "CVSS:4.0/AV:N",
            ["CWE-434"],
        )
        assert old[3:] == (Decimal("10.0"), "AV:N/AC:L/Au:N/C:C/I:C/A:C", None, *NO_SCORE, *NO_SCORE, ["NVD-CWE-Other"])

    def test_of_several_scores_nvds_own_counts_and_else_the_highest(self, mirror):
        def scored(number: int, *metrics: tuple[str, float]) -> None:
            cvss = [{"type": kind, "cvssData": {"baseScore": score, "vectorString": "V"}} for kind, score in metrics]
            mirror.api.records[number]["cve"] |= {"id": f"CVE-2026-000{number}", "metrics": {"cvssMetricV31": cvss}}

        scored(1, ("Secondary", 9.8), ("Primary", 5.4))
        scored(2, ("Secondary", 5.4), ("Secondary", 9.8), ("Secondary", 7.0))

        nvd_collector.run_now()

        found = mirror.query("SELECT cvss_v31_score FROM nvd WHERE cve_id LIKE 'CVE-2026-%' ORDER BY cve_id")
        assert found == [(Decimal("5.4"),), (Decimal("9.8"),)]

    def test_what_was_rejected_is_kept_without_scores(self, mirror):
        nvd_collector.run_now()

        [found] = mirror.query(
            "SELECT count(*), count(cvss_v2_score), bool_and(description LIKE '%eject%') FROM nvd"
            " WHERE status = 'Rejected'"
        )
        assert found == (21, 0, True)

    def test_it_goes_on_where_it_was_interrupted(self, mirror):
        mirror.api.most = 100
        mirror.api.before = lambda asked: Answer(status=403) if asked["startIndex"] == "200" else None

        failed = nvd_collector.run_now()
        half = mirror.status
        mirror.api.timestamp = "2026-01-01T00:00:00.000"
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert (failed.outcome, half.data, half.updated_until) == ("FAILED", "PARTIAL", None)
        assert half.cursor["whole"]["start"] == 200
        assert (outcome.outcome, outcome.counts) == ("OK", Counts(inserted=50))
        assert mirror.api.starts == [0, 100, 200, 200]
        assert mirror.ids == all_ids(mirror)
        assert mirror.status.updated_until == FIRST_ANSWER

    def test_one_that_holds_nothing_fails(self, mirror):
        mirror.api.records = []

        outcome = nvd_collector.run_now()

        assert outcome.outcome == "FAILED"
        assert "holds no records at all" in outcome.reason
        assert mirror.status.data == "EMPTY"

    def test_records_that_come_meanwhile_do_not_hold_it_up(self, mirror):
        late = mirror.api.records.pop()
        mirror.api.most = 100
        mirror.api.before = lambda asked: mirror.api.records.append(late) if asked["startIndex"] == "100" else None

        dry = nvd_collector.run_now(dry_run=True)
        mirror.api.records.pop()
        mirror.api.asked.clear()
        outcome = nvd_collector.run_now()

        assert (dry.outcome, outcome.outcome, mirror.api.starts) == ("OK", "OK", [0, 100, 200])
        assert len(mirror.ids) == 250
        assert mirror.status.updated_until == FIRST_ANSWER

    def test_a_record_that_came_in_between_those_that_were_read_has_it_read_anew(self, mirror):
        late = mirror.api.records.pop(0)
        mirror.api.most = 100
        mirror.api.before = lambda asked: mirror.api.records.insert(0, late) if asked["startIndex"] == "100" else None

        failed = nvd_collector.run_now()
        half = mirror.status
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert failed.outcome == "FAILED"
        assert "holds 250 records, of which some were not on any page: pages have shifted" in failed.reason
        assert (half.data, half.cursor) == ("PARTIAL", {})
        assert outcome.outcome == "OK"
        assert mirror.api.starts == [0, 100, 200, 0, 100, 200]
        assert mirror.ids == all_ids(mirror)

    def test_a_record_that_goes_meanwhile_has_it_read_anew(self, mirror):
        mirror.api.most = 100
        mirror.api.before = lambda asked: mirror.api.records.pop(0) and None if asked["startIndex"] == "100" else None

        failed = nvd_collector.run_now()
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert "totalResults went from 250 to 249: pages have shifted" in failed.reason
        assert outcome.outcome == "OK"
        assert mirror.api.starts == [0, 100, 0, 100, 200]
        assert mirror.ids >= all_ids(mirror)

    def test_a_page_that_is_empty_before_the_end_has_it_read_anew(self, mirror):
        mirror.api.most = 100
        hollow = b'{"startIndex": 100, "totalResults": 250, "timestamp": "2025-06-23T22:02:16", "vulnerabilities": []}'
        mirror.api.before = lambda asked: Answer(body=hollow) if asked["startIndex"] == "100" else None

        failed = nvd_collector.run_now()
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert "ends after 100 of 250 records: pages have shifted" in failed.reason
        assert outcome.outcome == "OK"
        assert mirror.ids == all_ids(mirror)

    @pytest.mark.parametrize(
        ("total", "timestamp", "reason"),
        [
            (0, "2025-06-23T22:02:16", "holds no records at all"),
            (250, "2099-06-23T22:02:16", "says that it is 2099-06-23, which is to come"),
        ],
        ids=["empty", "to-come"],
    )
    @pytest.mark.parametrize("start", [0, 100])
    def test_an_answer_that_cannot_be_true_does_not_spoil_the_place(self, mirror, start, total, timestamp, reason):
        mirror.api.most = 100
        page = {**mirror.api._page({"startIndex": str(start), "resultsPerPage": "100"}), "timestamp": timestamp}
        page |= {"totalResults": total} | ({} if total else {"vulnerabilities": []})
        lie = Answer(body=msgspec.json.encode(page))
        mirror.api.before = lambda asked: lie if asked["startIndex"] == str(start) else None

        failed = nvd_collector.run_now()
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert reason in failed.reason
        assert (outcome.outcome, outcome.reason) == ("OK", None)
        assert mirror.api.starts == [*range(0, start + 1, 100), *range(start, 201, 100)]
        assert mirror.status.updated_until == FIRST_ANSWER

    def test_another_page_than_was_asked_for_is_refused(self, mirror):
        mirror.api.most = 100
        page = msgspec.json.encode({**mirror.api._page({"startIndex": "0", "resultsPerPage": "100"})})
        mirror.api.before = lambda _asked: Answer(body=page)

        outcome = nvd_collector.run_now()

        assert "answers from record 0 on where 100 was asked for" in outcome.reason
        assert mirror.status.cursor["whole"]["start"] == 100

    def test_a_dry_run_pages_through_everything_and_leaves_all_alone(self, mirror):
        mirror.api.most = 100

        outcome = nvd_collector.run_now(dry_run=True)

        assert (outcome.outcome, outcome.counts) == ("OK", Counts(inserted=250))
        assert mirror.api.starts == [0, 100, 200]
        assert (mirror.ids, mirror.status.data, mirror.status.cursor) == (set(), "EMPTY", {})


class TestWindows:
    def test_the_recorded_versions_differ_in_three_rows(self, mirror):
        mirror.load()
        before = dict(mirror.query("SELECT cve_id, xmin::text FROM nvd"))
        mirror.api.records = recorded(NEW)

        outcome = nvd_collector.run_now()

        after = dict(mirror.query("SELECT cve_id, xmin::text FROM nvd"))
        assert (outcome.outcome, outcome.counts.inserted, outcome.counts.updated) == ("OK", 0, 3)
        assert sorted(cve_id for cve_id in before if after[cve_id] != before[cve_id]) == CHANGED
        assert after.keys() == before.keys()

    def test_they_cover_the_time_since_the_watermark_with_a_day_of_overlap(self, mirror):
        mirror.load()

        nvd_collector.run_now()

        asked = [
            tuple(datetime.fromisoformat(each[name]) for name in ("lastModStartDate", "lastModEndDate"))
            for each in mirror.api.asked
        ]
        assert asked[0][0] == FIRST_ANSWER - timedelta(days=1)
        assert all(end == start for (_, end), (start, _) in pairwise(asked))
        assert {end - start for start, end in asked[:-1]} == {timedelta(days=120)}
        assert timedelta(0) < datetime.now(UTC) - asked[-1][1] < timedelta(minutes=1)

    def test_the_offset_of_a_time_is_sent_as_a_plus_that_is_quoted(self, mirror):
        mirror.load()

        nvd_collector.run_now()

        sent = mirror.source.requests[-1].target
        assert sent.count("%2B00%3A00") == 2
        assert "+" not in sent

    def test_empty_ones_move_no_watermark(self, mirror):
        mirror.load()

        outcome = nvd_collector.run_now()

        assert outcome.outcome == "OK"
        assert mirror.status.updated_until == FIRST_ANSWER

    def test_after_the_last_rows_the_watermark_stays_at_the_start_of_the_first_empty_one(self, mirror):
        mirror.load()
        mirror.touch(0, FIRST_ANSWER + timedelta(days=30))

        nvd_collector.run_now()

        assert len(mirror.api.asked) > 2
        assert mirror.status.updated_until == FIRST_ANSWER + timedelta(days=119)

    def test_rows_in_a_later_one_move_the_watermark_past_empty_ones_to_its_end(self, mirror):
        mirror.load()
        mirror.touch(0, FIRST_ANSWER + timedelta(days=300))

        outcome = nvd_collector.run_now()

        assert outcome.counts.updated == 1
        assert mirror.status.updated_until == FIRST_ANSWER + timedelta(days=359)

    def test_the_watermark_is_not_later_than_the_servers_clock(self, mirror):
        mirror.load()
        mirror.api.timestamp = (FIRST_ANSWER + timedelta(days=40)).isoformat().removesuffix("+00:00")
        mirror.touch(0, FIRST_ANSWER + timedelta(days=30))

        nvd_collector.run_now()

        assert mirror.status.updated_until == FIRST_ANSWER + timedelta(days=40)

    def test_the_watermark_does_not_follow_a_clock_that_goes_back(self, mirror):
        mirror.load()
        mirror.api.timestamp = "2024-01-01T00:00:00.000"
        mirror.touch(0, FIRST_ANSWER + timedelta(days=30))

        outcome = nvd_collector.run_now()

        assert (outcome.outcome, outcome.counts.updated) == ("OK", 1)
        assert mirror.status.updated_until == FIRST_ANSWER

    @pytest.mark.parametrize(("number", "days", "total"), [(1, 300, 4), (7, 30, 6)], ids=["falls", "grows"])
    def test_a_total_that_does_not_hold_still_fails_the_run_and_the_window_is_read_anew(
        self, mirror, number, days, total
    ):
        mirror.load()
        for each in (1, 2, 3, 8, 9):
            mirror.touch(each, FIRST_ANSWER + timedelta(days=30), vulnStatus="Modified")
        mirror.api.most = 2

        def modify(asked: dict[str, str]) -> None:
            if asked["startIndex"] == "2":
                mirror.touch(number, FIRST_ANSWER + timedelta(days=days), vulnStatus="Modified")

        mirror.api.before = modify
        failed = nvd_collector.run_now()
        stayed = mirror.status
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert f"totalResults went from 5 to {total}: pages have shifted" in failed.reason
        assert (stayed.data, stayed.updated_until, stayed.cursor.keys()) == ("COMPLETE", FIRST_ANSWER, {"read_whole"})
        assert outcome.outcome == "OK"
        assert mirror.query("SELECT count(*) FROM nvd WHERE status = 'Modified'") == [(max(5, total),)]

    def test_one_goes_on_where_it_was_interrupted(self, mirror):
        mirror.load()
        for number in range(5):
            mirror.touch(number, FIRST_ANSWER + timedelta(days=300), vulnStatus="Modified")
        mirror.api.most = 2
        mirror.api.before = lambda asked: Answer(status=403) if asked["startIndex"] == "4" else None

        failed = nvd_collector.run_now()
        interrupted = mirror.api.asked[-1]
        mirror.api.asked.clear()
        mirror.api.before = lambda _asked: None
        outcome = nvd_collector.run_now()

        assert (failed.outcome, failed.counts.updated, outcome.counts.updated) == ("FAILED", 4, 1)
        assert mirror.api.asked[0] == interrupted
        assert mirror.api.asked[1]["lastModStartDate"] == interrupted["lastModEndDate"]
        assert mirror.status.updated_until == FIRST_ANSWER + timedelta(days=359)

    def test_a_record_that_is_older_than_what_is_in_is_passed_over(self, mirror, caplog):
        newest = FIRST_ANSWER + timedelta(days=118, hours=12)
        mirror.load()
        mirror.touch(0, newest, vulnStatus="Modified")
        nvd_collector.run_now()

        mirror.touch(0, newest - timedelta(hours=1), vulnStatus="Received")
        mirror.touch(1, newest, vulnStatus="Analyzed")
        outcome = nvd_collector.run_now()

        assert (outcome.outcome, outcome.counts) == ("OK", Counts(updated=1))
        assert "records older than those that are in, passed over: 1" in caplog.text
        assert mirror.query("SELECT count(*) FROM nvd WHERE status = 'Received'") == [(0,)]


class TestRequests:
    def test_the_key_goes_into_a_header_and_nowhere_else(self, mirror, monkeypatch, caplog):
        monkeypatch.setattr(tasks, "settings", NvdSettings(url=mirror.api.url, api_key="s3cret"))
        mirror.api.before = lambda _asked: Answer(status=403, content_type="text/html", body=b"<html>")

        outcome = nvd_collector.run_now()

        assert mirror.source.requests[0].headers["apikey"] == "s3cret"
        assert "s3cret" not in mirror.source.requests[0].target
        assert "answered 403 Forbidden" in outcome.reason
        for text in (outcome.reason, caplog.text, repr(tasks.settings)):
            assert "s3cret" not in text

    def test_without_a_key_no_such_header_is_sent(self, mirror):
        nvd_collector.run_now()

        assert "apikey" not in mirror.source.requests[0].headers

    @pytest.mark.parametrize(("key", "limit"), [("", 5), ("k", 50)])
    def test_the_key_decides_how_many_requests_are_made_in_half_a_minute(self, key, limit):
        shown = subprocess.run(
            [sys.executable, "-c", "from collectors.nvd.tasks import LIMIT; print(LIMIT)"],
            env={**os.environ, "NVD_COLLECTOR_API_KEY": key},
            capture_output=True,
            text=True,
            check=True,
        )

        assert shown.stdout == f"a request limit of {limit} in 30 s\n"

    def test_every_request_counts(self, mirror, monkeypatch):
        limit = RateLimit(2, timedelta(hours=1))
        monkeypatch.setattr(tasks, "LIMIT", limit)
        mirror.api.most = 100

        outcome = nvd_collector.run_now()

        assert "no turn came within 300 s" in outcome.reason
        assert mirror.api.starts == [0, 100]

    def test_parameters_are_appended_to_those_of_the_address(self, mirror, monkeypatch):
        monkeypatch.setattr(tasks, "settings", NvdSettings(url=f"{mirror.api.url}?mirror=1"))

        nvd_collector.run_now()

        assert mirror.api.asked[0]["mirror"] == "1"
        assert mirror.ids == all_ids(mirror)


class TestReadingAgain:
    """Each month everything is read again."""

    @pytest.fixture(autouse=True)
    def month_later(self, mirror):
        mirror.load()
        mirror.api.records[7]["cve"]["vulnStatus"] = "Modified"  # and dated as before
        mirror.api.most = 100
        self.last_read(31)

    def last_read(self, days):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        ledger_db.run(
            "UPDATE collectkit.collector SET meta_attr = meta_attr || jsonb_build_object('read_whole', %(at)s::text)"
            " WHERE name = %(name)s",
            {"name": nvd_collector.name, "at": at},
        )

    def wholes(self, mirror):
        return [int(asked["startIndex"]) for asked in mirror.api.asked if "lastModStartDate" not in asked]

    def test_a_record_that_was_changed_under_its_old_date_is_brought_up_to_date(self, mirror):
        outcome = nvd_collector.run_now()

        assert (outcome.outcome, outcome.counts.updated) == ("OK", 1)
        assert mirror.query("SELECT count(*) FROM nvd WHERE status = 'Modified'") == [(1,)]
        assert self.wholes(mirror) == [0, 100, 200]

    def test_it_comes_after_the_windows_and_moves_no_watermark(self, mirror):
        mirror.touch(9, FIRST_ANSWER + timedelta(days=1), vulnStatus="Modified")

        nvd_collector.run_now()

        windows = ["lastModStartDate" in asked for asked in mirror.api.asked]
        assert windows == sorted(windows, reverse=True)
        assert mirror.status.updated_until < FIRST_ANSWER + timedelta(days=121)

    def test_it_is_done_once_a_month(self, mirror):
        nvd_collector.run_now()
        mirror.api.asked.clear()
        nvd_collector.run_now()
        again = self.wholes(mirror)
        self.last_read(29)
        nvd_collector.run_now()

        assert (again, self.wholes(mirror)) == ([], [])

    def test_one_that_was_interrupted_goes_on_after_the_windows_and_the_data_stay_complete(self, mirror):
        mirror.api.before = lambda asked: Answer(status=403) if asked["startIndex"] == "200" else None
        failed = nvd_collector.run_now()
        half = mirror.status
        mirror.api.before = lambda _asked: None
        mirror.api.asked.clear()

        outcome = nvd_collector.run_now()

        assert (failed.outcome, half.data, half.cursor["whole"]["start"]) == ("FAILED", "COMPLETE", 200)
        assert (outcome.outcome, self.wholes(mirror)) == ("OK", [200])
        assert mirror.status.cursor.keys() == {"read_whole"}


def test_the_table_is_served_and_open_to_the_group_public_alone(mirror):
    nvd_collector.run_now()

    assert find_served("nvd").sealed
    assert Nvd.select().count() == 0
    with acl_scope(["public"]):
        assert Nvd.select().count() == 250


def test_a_rewind_drops_the_place_of_a_paging():
    assert nvd_collector.declared.cursor_keys == ("paging", "whole")


def test_records_are_recorded_in_the_order_of_their_publication():
    published = [record["cve"]["published"] for record in recorded(OLD)]

    assert published == sorted(published)
    assert max(map(modified, recorded(OLD))) < FIRST_ANSWER
