from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from collectkit import Download, FetchError, Rejected
from collectors.kev.source import Catalog, Entry, read_catalog

RECORDED = Path(__file__).parents[1] / "data" / "kev"
ENTRY = {
    "cveID": "CVE-2026-18556",
    "vendorProject": "N-able",
    "product": "N-central",
    "vulnerabilityName": "N-able N-central Authentication Bypass Vulnerability",
    "dateAdded": "2026-08-04",
    "shortDescription": "It allows for authentication bypass.",
    "requiredAction": "Apply mitigations.",
    "dueDate": "2026-08-07",
    "knownRansomwareCampaignUse": "Known",
    "notes": "https://status.n-able.com/",
    "cwes": ["CWE-288"],
}
MANDATORY = sorted(ENTRY.keys() - {"knownRansomwareCampaignUse", "notes", "cwes"})


def catalog(*entries: dict[str, Any], **changes: Any) -> bytes:
    version = {
        "title": "CISA Catalog of Known Exploited Vulnerabilities",
        "catalogVersion": "2026.08.04",
        "dateReleased": "2026-08-04T16:45:52.0783Z",
        "count": len(entries),
        "vulnerabilities": entries,
    }
    return json.dumps({**version, **changes}).encode()


@pytest.fixture
def read(tmp_path):
    def read(body: bytes) -> Catalog:
        file = tmp_path / "body"
        file.write_bytes(body)
        return read_catalog(
            Download(url="https://kev.example/", unchanged=False, sha256="", size=len(body), meta={}, file=file)
        )

    return read


def recorded(version: str) -> bytes:
    return gzip.decompress((RECORDED / f"known_exploited_vulnerabilities.{version}.json.gz").read_bytes())


@pytest.mark.parametrize(
    ("version", "entries"), [("2024-09-19", 1181), ("2024-09-25", 1181), ("2026-07-27", 1655), ("2026-08-04", 1660)]
)
def test_the_recorded_catalogues_are_read_whole(read, version, entries):
    found = read(recorded(version))

    assert found.catalog_version == version.replace("-", ".")
    assert len([entry for entry in found.entries() if isinstance(entry, Entry)]) == entries


def test_dates_and_lists_are_typed(read):
    found = read(catalog(ENTRY))

    [entry] = found.entries()
    assert found.date_released == datetime(2026, 8, 4, 16, 45, 52, 78300, tzinfo=UTC)
    assert (entry.cve_id, entry.date_added, entry.due_date) == ("CVE-2026-18556", date(2026, 8, 4), date(2026, 8, 7))
    assert (entry.known_ransomware_campaign_use, entry.cwes) == ("Known", ("CWE-288",))


@pytest.mark.parametrize("missing", MANDATORY)
def test_an_entry_without_a_field_is_rejected_with_its_name(read, missing):
    entry = {name: value for name, value in ENTRY.items() if name != missing}

    good, poison = read(catalog(ENTRY, entry)).entries()

    assert isinstance(good, Entry)
    assert poison.reason == f"Object missing required field `{missing}`"
    assert poison.key == entry.get("cveID")


@pytest.mark.parametrize("missing", ["catalogVersion", "dateReleased", "count", "vulnerabilities"])
def test_a_catalogue_without_its_head_is_refused(read, missing):
    body = {name: value for name, value in json.loads(catalog(ENTRY)).items() if name != missing}

    with pytest.raises(FetchError, match=f"missing required field `{missing}`"):
        read(json.dumps(body).encode())


def test_fields_that_came_later_may_be_absent(read):
    found = read(catalog({name: ENTRY[name] for name in MANDATORY}))

    [entry] = found.entries()
    assert (entry.known_ransomware_campaign_use, entry.notes, entry.cwes) == (None, "", ())


def test_fields_that_nobody_knows_yet_are_passed_over(read):
    found = read(catalog({**ENTRY, "severity": {"score": 9.8}}, license="CC0"))

    [entry] = found.entries()
    assert entry.cve_id == ENTRY["cveID"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cveID", "CVE-2026-1"),
        ("cveID", "CVE-2026-18556\n"),
        ("dateAdded", "08/04/2026"),
        ("dueDate", ""),
        ("product", None),
        ("cwes", "CWE-288"),
    ],
)
def test_an_entry_with_a_value_of_another_form_is_rejected_with_the_name_of_the_field(read, field, value):
    [poison] = read(catalog({**ENTRY, field: value})).entries()

    assert isinstance(poison, Rejected)
    assert poison.reason.endswith(f"at `$.{field}`")


def test_a_release_without_a_zone_is_refused(read):
    with pytest.raises(FetchError, match="dateReleased"):
        read(catalog(ENTRY, dateReleased="2026-08-04T16:45:52"))


def test_a_list_that_is_shorter_than_the_count_is_refused(read):
    with pytest.raises(FetchError, match="says that its count is 1,660 and lists 1"):
        read(catalog(ENTRY, count=1660))


def test_the_error_page_that_a_mirror_stored_is_refused(read):
    page = (RECORDED / "known_exploited_vulnerabilities.2024-11-26-error-page.json").read_bytes()

    with pytest.raises(FetchError, match="is not JSON, it begins with '<HTML><HEAD>"):
        read(page)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_catalogue_that_was_cut_is_refused(read, share):
    whole = recorded("2026-08-04")

    with pytest.raises(FetchError, match="is not JSON"):
        read(whole[: int(len(whole) * share)])
