"""CISA's Known Exploited Vulnerabilities catalogue as it is published: one JSON file, always whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from collectkit import Download, Rejected, decode_each

URL = "https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json"
MAX_BYTES = 8 << 20
"""A body of more is no catalogue: it has 1.6 MB, and grows by a sixth a year."""


class Entry(Struct, frozen=True, kw_only=True, rename="camel"):
    """One listed vulnerability, its fields named as the columns of the table; fields that are new are passed over."""

    cve_id: Annotated[str, Meta(pattern=r"^CVE-[0-9]{4}-[0-9]{4,19}\Z")] = field(name="cveID")
    vendor_project: str
    product: str
    vulnerability_name: str
    date_added: date
    short_description: str
    required_action: str
    due_date: date
    known_ransomware_campaign_use: str | None = None  # "Known" or "Unknown"; a file without it has not said "Unknown"
    notes: str = ""
    cwes: tuple[str, ...] = ()  # since 2024-06-26


class Catalog(Struct, frozen=True, kw_only=True, rename="camel"):
    """One version of the catalogue."""

    catalog_version: Annotated[str, Meta(pattern=r"^[0-9.]{1,20}\Z")]
    date_released: Annotated[datetime, Meta(tz=True)]
    count: int
    vulnerabilities: tuple[Raw, ...]

    def entries(self) -> Iterator[Entry | Rejected]:
        """Decode the entries, each by itself."""
        return decode_each(self.vulnerabilities, Entry, key="cve_id")


def read_catalog(feed: Download) -> Catalog:
    """Decode what was downloaded and check that it is whole.

    Raises:
        FetchError: it is no catalogue (an error page, a cut body), or lists another number of entries than it says.
    """
    catalog = feed.json(Catalog)
    if catalog.count != len(catalog.vulnerabilities):
        raise feed.refused(f"says that its count is {catalog.count:,} and lists {len(catalog.vulnerabilities):,}")
    return catalog
