"""NVD's API 2.0: pages of CVE records, of all there are or of those that were modified within a window."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, Raw, Struct

from collectkit import Download, Rejected, Window, decode_each

URL = "https://services.nvd.nist.gov/rest/json/cves/2.0"
LONGEST = timedelta(days=120)
"""The longest window that NVD answers."""
MAX_BYTES = 64 << 20
"""A body of more is no page: 2,000 records have some 10 MB."""
_MOST = 2000
_Score = Annotated[float, Meta(ge=0, le=10)]


class Page(Struct, frozen=True, kw_only=True, rename="camel"):
    """One answer; the server may give fewer records than were asked for."""

    start_index: int
    total_results: Annotated[int, Meta(ge=0)]
    timestamp: datetime
    vulnerabilities: tuple[Raw, ...]

    @property
    def end(self) -> int:
        """Where the next page begins."""
        return self.start_index + len(self.vulnerabilities)


class _Data(Struct, frozen=True, rename="camel"):
    base_score: _Score
    vector_string: str


class _Metric(Struct, frozen=True, rename="camel"):
    cvss_data: _Data
    type: str = ""


class _Metrics(Struct, frozen=True, rename="camel"):
    """By version, in the order of the table's columns."""

    cvss_metric_v2: tuple[_Metric, ...] = ()
    cvss_metric_v30: tuple[_Metric, ...] = ()
    cvss_metric_v31: tuple[_Metric, ...] = ()
    cvss_metric_v40: tuple[_Metric, ...] = ()


class _Text(Struct, frozen=True):
    lang: str
    value: str


class _Weakness(Struct, frozen=True):
    description: tuple[_Text, ...] = ()


class _Cve(Struct, frozen=True, kw_only=True, rename="camel"):
    id: Annotated[str, Meta(pattern=r"^CVE-[0-9]{4}-[0-9]{4,19}\Z")]
    vuln_status: str
    published: datetime
    last_modified: datetime
    descriptions: tuple[_Text, ...] = ()
    metrics: _Metrics = _Metrics()
    weaknesses: tuple[_Weakness, ...] = ()

    def __post_init__(self) -> None:
        if not all(1 < moment.year < 9999 for moment in (self.published, self.last_modified)):
            raise ValueError("a time lies beyond those that can be kept")


class _Record(Struct, frozen=True):
    cve: _Cve


class Row(Struct, frozen=True, kw_only=True):
    """One record, its fields named as the columns of the table."""

    cve_id: str
    status: str
    published: datetime
    last_modified: datetime
    description: str
    cvss_v2_score: float | None
    cvss_v2_vector: str | None
    cvss_v30_score: float | None
    cvss_v30_vector: str | None
    cvss_v31_score: float | None
    cvss_v31_vector: str | None
    cvss_v40_score: float | None
    cvss_v40_vector: str | None
    weaknesses: list[str]


def address(url: str, start: int, window: Window | None) -> str:
    """Return where the page is that begins at ``start``: of the records modified within the window, else of all."""
    asked = {"startIndex": str(start), "resultsPerPage": str(_MOST)}
    if window is not None:
        asked["lastModStartDate"] = window.start.isoformat(timespec="milliseconds")
        asked["lastModEndDate"] = window.end.isoformat(timespec="milliseconds")
    return f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}"


def read_page(feed: Download, start: int) -> Page:
    """Decode what was downloaded, and check that it is the page that was asked for; its records stay as they are.

    Raises:
        FetchError: it is no page, or another one.
    """
    page = feed.json(Page)
    if page.timestamp.year < 2000:
        raise feed.refused(f"says that it is the year {page.timestamp.year}")
    if page.start_index != start:
        raise feed.refused(f"answers from record {page.start_index:,} on where {start:,} was asked for")
    return page


def read_rows(page: Page) -> Iterator[Row | Rejected]:
    """Decode the records of the page, each by itself."""
    for record in decode_each(page.vulnerabilities, _Record, key="cve.id"):
        yield record if isinstance(record, Rejected) else _row(record.cve)


def utc(moment: datetime) -> datetime:
    """Return the moment with its zone: NVD writes none, and means UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _row(cve: _Cve) -> Row:
    v2, v30, v31, v40 = map(_chosen, msgspec.structs.astuple(cve.metrics))
    return Row(
        cve_id=cve.id,
        status=cve.vuln_status,
        published=utc(cve.published),
        last_modified=utc(cve.last_modified),
        description=next((text.value for text in cve.descriptions if text.lang == "en"), ""),
        cvss_v2_score=v2[0],
        cvss_v2_vector=v2[1],
        cvss_v30_score=v30[0],
        cvss_v30_vector=v30[1],
        cvss_v31_score=v31[0],
        cvss_v31_vector=v31[1],
        cvss_v40_score=v40[0],
        cvss_v40_vector=v40[1],
        weaknesses=sorted({text.value for weakness in cve.weaknesses for text in weakness.description}),
    )


def _chosen(metrics: tuple[_Metric, ...]) -> tuple[float | None, str | None]:
    """Return score and vector of NVD's own assessment, else of the gravest: their order means nothing."""

    def weight(metric: _Metric) -> tuple[bool, float, str]:
        return metric.type == "Primary", metric.cvss_data.base_score, metric.cvss_data.vector_string

    return msgspec.structs.astuple(max(metrics, key=weight).cvss_data) if metrics else (None, None)
