"""Records and bodies in the layout of each source, made by a rule and without any of their data.

Records are numbers; two bodies differ in what their arguments say, and in nothing else.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

_KINDS, _PLATFORMS = ("remote", "local", "dos", "webapps"), ("linux", "windows", "php", "multiple")
_SHORT = "id,file,description,date,author,platform,type,port"
_LONG = (
    "id,file,description,date_published,author,type,platform,port,date_added,date_updated,verified,codes,tags,aliases,"
    "screenshot_url,application_url,source_url"
)


def scores(
    numbers: Iterable[int],
    *,
    model: str = "v2026.06.15",
    date: str = "2026-11-23T12:02:54Z",
    other: Collection[int] = (),
    lines: Iterable[str] = (),
) -> bytes:
    """The daily file of EPSS: ``other`` numbers have other scores; ``lines`` stand at its end as they are."""
    rows = [f"CVE-{2000 + n % 27}-{10_000 + n},{_part(n, 7 if n in other else 3)},{_part(n, 5)}" for n in numbers]
    head = [f"#model_version:{model},score_date:{date}", "cve,epss,percentile"]
    return gzip.compress("".join(f"{line}\n" for line in (*head, *rows, *lines)).encode(), mtime=0)


def exploits(numbers: Iterable[int], *, other: Collection[int] = (), short: bool = False, version: int = 0) -> bytes:
    """The index of Exploit-DB, in 17 columns or in the 8 of before 2022: ``other`` have another description.

    Of two versions the greater has later dates.
    """
    into = io.StringIO()
    table = csv.DictWriter(into, (_SHORT if short else _LONG).split(","), extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(_exploit(n, edited=n in other, version=version) for n in numbers)
    return into.getvalue().encode()


def modules(
    numbers: Iterable[int], *, other: Collection[int] = (), touched: Collection[int] = (), version: int = 0
) -> bytes:
    """Metasploit's modules: ``other`` have another description, ``touched`` only another ``mod_time``.

    Of two versions the greater has later times.
    """
    found = [_module(n, edited=n in other, touched=n in touched, version=version) for n in numbers]
    return json.dumps({each["fullname"].replace("/", "_", 1): each for each in found}, indent=2).encode()


def entry(n: int, text: str = "text") -> dict[str, Any]:
    """An entry of CISA's catalogue."""
    return {
        "cveID": f"CVE-2026-{10_000 + n}",
        "vendorProject": "A vendor",
        "product": "a product",
        "vulnerabilityName": "a name",
        "dateAdded": "2026-08-04",
        "shortDescription": text,
        "requiredAction": "an action",
        "dueDate": "2026-08-07",
        "knownRansomwareCampaignUse": "Known",
        "notes": "notes",
        "cwes": ["CWE-288"],
    }


def catalog(entries: Collection[Any], *, released: datetime) -> bytes:
    """CISA's catalogue."""
    head = {"catalogVersion": f"{released:%Y.%m.%d}", "dateReleased": released.isoformat(), "count": len(entries)}
    return json.dumps({**head, "vulnerabilities": [*entries]}).encode()


def nvd_record(n: int, text: str = "text", *, modified: datetime) -> dict[str, Any]:
    """A record of NVD."""
    metric = {"type": "Primary", "cvssData": {"baseScore": 9.8, "vectorString": "a vector"}}
    return {
        "cve": {
            "id": f"CVE-2026-{10_000 + n}",
            "vulnStatus": "Analyzed",
            "published": "2026-01-01T00:00:00.000",
            "lastModified": _without_zone(modified),
            "descriptions": [{"lang": "en", "value": text}],
            "metrics": {"cvssMetricV31": [metric, metric]},
            "weaknesses": [{"description": [{"lang": "en", "value": "CWE-1"}]}],
        }
    }


def page(records: Collection[Any], *, timestamp: datetime) -> bytes:
    """All that NVD has, on one page."""
    head = {"startIndex": 0, "totalResults": len(records), "timestamp": _without_zone(timestamp)}
    return json.dumps({**head, "vulnerabilities": [*records]}).encode()


def advisory(n: int, text: str = "text", *, modified: datetime) -> dict[str, Any]:
    """A record of OSV."""
    package = {"ecosystem": "crates.io", "name": "a-package"}
    return {
        "id": f"RUSTSEC-2026-{10_000 + n}",
        "modified": modified.isoformat(),
        "published": "2026-01-01T00:00:00Z",
        "withdrawn": "2026-01-01T00:00:00Z",
        "aliases": [f"CVE-2026-{10_000 + n}", "GHSA-1"],
        "summary": text,
        "severity": [{"type": "CVSS_V3", "score": "a vector"}],
        "affected": [{"package": package, "ranges": [{"events": [{"fixed": "1"}]}]}],
    }


def cve_record(n: int, text: str = "text") -> dict[str, Any]:
    """A record of the CVE List."""
    return {
        "cveMetadata": {
            "cveId": f"CVE-2026-{10_000 + n}",
            "assignerOrgId": "an id",
            "assignerShortName": "a name",
            "state": "PUBLISHED",
            "datePublished": "2026-01-01T00:00:00.000Z",
            "dateUpdated": "2026-01-01T00:00:00.000Z",
        },
        "containers": {
            "cna": {
                "title": "a title",
                "descriptions": [{"lang": "en", "value": text}],
                "rejectedReasons": [{"lang": "en", "value": "a reason"}],
                "affected": [{"vendor": "a vendor"}],
            }
        },
    }


def _without_zone(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


def _part(number: int, factor: int) -> str:
    return f"{number * factor % 99_991 / 100_000:.5f}"


def _exploit(n: int, *, edited: bool, version: int) -> dict[str, Any]:
    kind, platform = _KINDS[n % 4], _PLATFORMS[n % 3]
    day = date(2020, 1, 1) + timedelta(days=n)
    return {
        "id": n,
        "file": f"exploits/{platform}/{kind}/{n}.py",
        "description": f'Made-up "Server" {n}.{n % 7}, {"Corrected" if edited else "Buffer"} Overflow{version or ""}',
        "date": day,
        "date_published": day,
        "author": f"Nobody No. {n % 11}",
        "type": kind,
        "platform": platform,
        "port": 8000 + n if kind == "remote" else "",
        "date_added": day,
        "date_updated": "" if n % 2 else day + timedelta(days=3 + version),
        "verified": n % 2,
        "codes": ["", f"CVE-2020-{10_000 + n}", f"CVE-2020-{10_000 + n};OSVDB-{n};cve-2019-{20_000 + n}"][n % 3],
        "source_url": f"https://exploits.example/{n}",
    }


def _module(n: int, *, edited: bool, touched: bool, version: int) -> dict[str, Any]:
    kind, platform = ("auxiliary", "exploit")[n % 2], _PLATFORMS[n % 3]
    name = f"{platform}/http/made_up_{n}"
    moment = datetime(2026, 9 + touched, 2, 17, 38, 6, tzinfo=UTC) + timedelta(minutes=version)
    return {
        "name": f"Made-up Server {n}",
        "fullname": f"{kind}/{name}",
        "aliases": [f"{kind}/{platform}/old_{n}"] if n % 5 == 0 else [],
        "rank": 300 + 100 * (n % 4),
        "disclosure_date": None if n % 3 == 0 else str(date(2020, 1, 1) + timedelta(days=n)),
        "type": kind,
        "author": ["nobody <nobody@modules.example>", f"No. {n}"],
        "description": f"This module {'really' if edited else 'only'} tests a parser{version or ''}.",
        "references": [f"CVE-2020-{10_000 + n}", "CVE-2222-xxxx", f"URL-https://modules.example/{n}"],
        "platform": platform.title(),
        "arch": "",
        "rport": 80,
        "targets": None,
        "mod_time": f"{moment:%Y-%m-%d %H:%M:%S %z}",
        "path": f"/modules/{kind}/{name}.rb",
        "is_install_path": True,
        "ref_name": name,
        "check": False,
        "notes": {},
    }
