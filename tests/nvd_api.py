"""NVD's API as far as the collector asks it: pages and windows over records that a test may change meanwhile."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.replay import Answer, Replay

RECORDED = Path(__file__).parent / "data" / "nvd"
PATH = "/rest/json/cves/2.0"


def recorded(version: str) -> list[dict[str, Any]]:
    """The records of a version, in the order of their publication."""
    return json.loads(gzip.decompress((RECORDED / f"cves.{version}.json.gz").read_bytes()))["vulnerabilities"]


class NvdApi:
    """Answers at ``url`` from ``records``.

    Attributes:
        timestamp: the server's clock.
        most: the longest page that it gives, whatever is asked for.
        before: called before each answer with what was asked; it may change anything, or return another answer.
        asked: each request's parameters.
    """

    def __init__(self, source: Replay, records: list[dict[str, Any]], *, timestamp: str, most: int = 2000) -> None:
        self.records = records
        self.timestamp = timestamp
        self.most = most
        self.before: Callable[[dict[str, str]], Answer | None] = lambda _asked: None
        self.asked: list[dict[str, str]] = []
        self.url = source.behave(PATH, self._answer)

    @property
    def starts(self) -> list[int]:
        """Where the pages began that were asked for."""
        return [int(asked["startIndex"]) for asked in self.asked]

    def _answer(self, target: str) -> Answer:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(target).query, strict_parsing=True).items()}
        self.asked.append(asked)
        other = self.before(asked)
        return other or Answer(body=json.dumps(self._page(asked)).encode())

    def _page(self, asked: dict[str, str]) -> dict[str, Any]:
        found = self.records
        if "lastModStartDate" in asked:
            since, until = (datetime.fromisoformat(asked[f"lastMod{end}Date"]) for end in ("Start", "End"))
            assert (until - since).days <= 120
            found = [each for each in found if since <= modified(each) <= until]
        start = int(asked["startIndex"])
        page = found[start : start + min(self.most, int(asked["resultsPerPage"]))]
        return {
            "resultsPerPage": len(page),
            "startIndex": start,
            "totalResults": len(found),
            "format": "NVD_CVE",
            "version": "2.0",
            "timestamp": self.timestamp,
            "vulnerabilities": page,
        }


def modified(record: dict[str, Any]) -> datetime:
    """When the record was modified last."""
    return datetime.fromisoformat(record["cve"]["lastModified"] + "+00:00")
