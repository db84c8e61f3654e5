from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collectkit import Rejected
from collectors.cvelist.source import RECORD, Cve, read_records
from tests.upstream import files_of

RECORDED = Path(__file__).parents[1] / "data" / "cvelist"
PATH = "cves/2024/3xxx/CVE-2024-3094.json"
PUBLISHED = {
    "dataType": "CVE_RECORD",
    "dataVersion": "5.1",
    "cveMetadata": {
        "cveId": "CVE-2024-3094",
        "assignerOrgId": "53f830b8-0a3f-465b-8143-3b8a9948e749",
        "assignerShortName": "redhat",
        "state": "PUBLISHED",
        "datePublished": "2024-03-29T16:51:12.588Z",
        "dateUpdated": "2024-04-02T00:00:00",
    },
    "containers": {
        "cna": {
            "title": "Xz: malicious code in distributed source",
            "descriptions": [{"lang": "de", "value": "Schadcode"}, {"lang": "en-US", "value": "Malicious code"}],
            "affected": [{"vendor": "xz", "versions": [{"version": "5.6.0", "status": "affected"}]}],
        },
        "adp": [{"title": "CISA ADP Vulnrichment", "affected": [{"vendor": "tukaani"}]}],
    },
}


def read(record: Any, path: str = PATH) -> Any:
    [row] = read_records([(path, record if isinstance(record, bytes) else json.dumps(record).encode())])
    return row


def changed(section: str, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(PUBLISHED))
    (record["containers"]["cna"] if section == "cna" else record[section]).update(changes)
    return record


def test_a_record_is_what_its_numbering_authority_says():
    assert read(PUBLISHED) == Cve(
        cve_id="CVE-2024-3094",
        state="PUBLISHED",
        assigner="redhat",
        date_published=datetime(2024, 3, 29, 16, 51, 12, 588000, tzinfo=UTC),
        date_updated=datetime(2024, 4, 2, tzinfo=UTC),  # which says no zone
        title="Xz: malicious code in distributed source",
        description="Malicious code",
        affected=({"vendor": "xz", "versions": [{"version": "5.6.0", "status": "affected"}]},),
    )


def test_what_a_record_may_lack_it_may_lack():
    record = changed("cveMetadata")
    for name in ("assignerShortName", "datePublished", "dateUpdated"):
        del record["cveMetadata"][name]
    record["containers"] = {"cna": {}}

    row = read(record)

    assert row.assigner == "53f830b8-0a3f-465b-8143-3b8a9948e749"
    assert (row.date_published, row.date_updated, row.title, row.description, row.affected) == (None,) * 4 + ((),)


def test_the_description_of_a_rejected_record_is_the_reason():
    record = changed("cveMetadata", state="REJECTED")
    record["containers"] = {"cna": {"rejectedReasons": [{"lang": "en", "value": "Not an issue"}]}}

    assert (read(record).state, read(record).description) == ("REJECTED", "Not an issue")


def test_without_an_english_description_the_first_is_taken():
    assert read(changed("cna", descriptions=[{"lang": "es", "value": "uno"}])).description == "uno"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "truncated"),
        (b"<html>", "malformed"),
        (json.dumps(PUBLISHED).encode()[:-40], "truncated"),
        ([], "Expected `object`, got `array`"),
        (changed("cveMetadata", state=""), "cveMetadata.state"),
        (changed("cveMetadata", datePublished="yesterday"), "cveMetadata.datePublished"),
        (changed("cveMetadata", cveId="CVE-2024-3095"), "holds another CVE than its name says"),
        (changed("cna", affected={}), "containers.cna.affected"),
        (changed("cna", title="a\0b"), "NUL character"),
        ({**PUBLISHED, "containers": {"adp": []}}, "missing required field `cna`"),
    ],
)
def test_a_record_that_cannot_be_read_is_set_aside_under_the_name_of_its_file(record, reason):
    row = read(record)

    assert isinstance(row, Rejected)
    assert reason in row.reason
    assert row.key == "CVE-2024-3094"


def test_one_record_that_cannot_be_read_costs_no_other():
    good = json.dumps(PUBLISHED).encode()

    rows = list(read_records([(PATH, good), (PATH, b"{"), (PATH, good)]))

    assert [type(row) for row in rows] == [Cve, Rejected, Cve]
    assert rows[1].record == b"{"


@pytest.mark.parametrize("day", ["2024-10-21", "2024-10-24"])
def test_every_recorded_record_is_read(day):
    files = files_of(RECORDED / f"vulnrichment-{day}.zip")

    rows = list(read_records((str(path), body) for path, body in files.items()))

    assert all(isinstance(row, Cve) for row in rows)
    assert all(row.description and row.date_updated and row.date_updated.tzinfo for row in rows)
    assert {row.cve_id for row in rows if row.state == "REJECTED"} == {row.cve_id for row in rows if not row.affected}


@pytest.mark.parametrize(
    ("path", "is_record"),
    [
        ("cves/2024/3xxx/CVE-2024-3094.json", True),
        ("CVE-2024-1234567.json", True),
        ("cves/delta.json", False),
        ("cves/deltaLog.json", False),
        ("cves/2024/3xxx/CVE-2024-3094.json.bak", False),
        ("cves/2024/3xxx/not-CVE-2024-3094.json", False),
        ("README.md", False),
    ],
)
def test_records_are_known_by_the_names_of_their_files(path, is_record):
    assert bool(re.search(RECORD, path)) is is_record
