"""What the sources of the shipped collectors publish in the demo, day by day, all of it on this machine."""

from __future__ import annotations

import copy
import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import feeds, nvd_api, upstream
from tests.replay import Answer, Replay

RECORDED = Path(__file__).parents[1] / "data"
ASK_NOBODY = ("example", "priority")
"""Collectors without a source of their own."""


class Sources:
    """A local server, and a git repository below a directory, in place of the sources.

    Attributes:
        left_out: the collectors that cannot be shown on this machine, and why.
    """

    def __init__(self, server: Replay, repository: Path) -> None:
        self.server = server
        self.api = nvd_api.NvdApi(server, [], timestamp="", most=100)  # three pages, where NVD has some 180
        self.api.before = self._tell_time
        self.left_out = {} if shutil.which("git") else {"cvelist": "its source is a git repository: install `git`"}
        self.repository = None if self.left_out else upstream.Upstream(repository)

    @property
    def feeds(self) -> dict[str, Feed]:
        """What can be shown here, by collector."""
        return {name: feed for name, feed in FEEDS.items() if name not in self.left_out}

    @property
    def environ(self) -> dict[str, str]:
        """Settings under which no other collectors run than these, and none of them asks anybody else."""
        places = {name: f"{self.server.base}{feed.place}" for name, feed in self.feeds.items()}
        if self.repository is not None:
            places["cvelist"] = self.repository.url
        return {
            "COLLECTKIT_COLLECTORS": ",".join(f"collectors.{name}" for name in (*places, *ASK_NOBODY)),
            "OSV_COLLECTOR_ECOSYSTEMS": "crates.io",
            **{f"{name.upper()}_COLLECTOR_URL": url for name, url in places.items()},
        }

    def publish(self, name: str, day: int) -> str:
        """Show what the source shows on this day, from 0 on, and from its last day on for ever; return what it is."""
        feed = FEEDS[name]
        version = feed.versions[min(day, len(feed.versions) - 1)]
        feed.publish(self, version)
        return feed.shown.format(version)

    def _tell_time(self, _asked: dict[str, str]) -> None:
        """NVD's clock is today's: the watermark is what it says, and the recorded one would be stale at once."""
        self.api.timestamp = _naive(datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One source.

    Attributes:
        place: its path on the local server.
        versions: what it publishes, one version after the other.
        shown: how a version is called.
        publish: has the source show a version from now on.
    """

    place: str
    versions: tuple[str, ...]
    shown: str = "{}"
    publish: Callable[[Sources, str], None]


def _publish_cvelist(sources: Sources, version: str) -> None:
    assert sources.repository is not None
    files = upstream.files_of(RECORDED / "cvelist" / f"vulnrichment-{version}.zip")
    sources.repository.publish(files, at=datetime.fromisoformat(f"{version}T00:00:00Z"))


def _publish_epss(sources: Sources, version: str) -> None:
    packed = (RECORDED / "epss" / f"epss_scores-{version}.csv.gz").read_bytes()
    _answer(sources, "epss", Answer(body=packed, content_type="application/gzip", etag=f'"{version}"'))


def _publish_exploitdb(sources: Sources, version: str) -> None:
    made = {
        "first": feeds.exploits(range(400)),
        "second": feeds.exploits(range(10, 430), other=range(20, 60)),
    }
    _answer(sources, "exploitdb", Answer(body=made[version], content_type="text/plain", etag=f'"{version}"'))


def _publish_kev(sources: Sources, version: str) -> None:
    packed = (RECORDED / "kev" / f"known_exploited_vulnerabilities.{version}.json.gz").read_bytes()
    _answer(sources, "kev", Answer.gzipped(gzip.decompress(packed), etag=f'"{version}"'))


def _publish_metasploit(sources: Sources, version: str) -> None:
    made = {
        "first": feeds.modules(range(300)),
        "second": feeds.modules(range(5, 320), other=range(50, 60), touched=range(100, 200)),
    }
    _answer(sources, "metasploit", Answer(body=made[version], content_type="text/plain", etag=f'"{version}"'))


def _publish_nvd(sources: Sources, version: str) -> None:
    """The records of that day; what differs from the day before was modified just now, or no window would hold it."""
    before = {record["cve"]["id"]: record for record in sources.api.records}
    exploited = json.loads((RECORDED / "nvd" / "cve.CVE-2021-26855.json").read_bytes())
    records = [*nvd_api.recorded(version), *exploited["vulnerabilities"]]
    sources.api.records = [_modified_now(each) if _differs(each, before) else each for each in records]


def _publish_osv(sources: Sources, version: str) -> None:
    packed = (RECORDED / "osv" / f"crates.io.{version}.zip").read_bytes()
    listed = []
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for body in map(archive.read, archive.namelist()):
            record = json.loads(body)
            listed.append((record["modified"], record["id"]))
            sources.server.answer(f"{FEEDS['osv'].place}/crates.io/{record['id']}.json", Answer(body=body))
    index = "".join(f"{modified},{name}\n" for modified, name in sorted(listed, reverse=True)).encode()
    folder = f"{FEEDS['osv'].place}/crates.io"
    sources.server.answer(f"{folder}/all.zip", Answer(body=packed, content_type="application/zip"))
    sources.server.answer(f"{folder}/modified_id.csv", Answer(body=index, content_type="text/csv"))


FEEDS = {
    "cvelist": Feed(place="", versions=("2024-10-21", "2024-10-24"), publish=_publish_cvelist),
    "epss": Feed(place="/epss.csv.gz", versions=("2026-06-13", "2026-06-20", "2026-08-08"), publish=_publish_epss),
    "exploitdb": Feed(
        place="/exploits.csv", versions=("first", "second"), shown="made up, {}", publish=_publish_exploitdb
    ),
    "kev": Feed(place="/kev.json", versions=("2026-07-27", "2026-08-04"), publish=_publish_kev),
    "metasploit": Feed(
        place="/modules.json", versions=("first", "second"), shown="made up, {}", publish=_publish_metasploit
    ),
    "nvd": Feed(place=nvd_api.PATH, versions=("2025-06-23", "2026-03-07"), publish=_publish_nvd),
    "osv": Feed(place="/osv", versions=("2026-06-01", "2026-08-21"), shown="crates.io, {}", publish=_publish_osv),
}


def break_kev(sources: Sources) -> str:
    """Answer with the page that a mirror once stored as the catalogue; return what that is."""
    page = RECORDED / "kev" / "known_exploited_vulnerabilities.2024-11-26-error-page.json"
    _answer(sources, "kev", Answer(body=page.read_bytes()))
    return "answers with an error page"


def break_epss(sources: Sources) -> str:
    """Answer with the first half of a file; return what that is."""
    packed = (RECORDED / "epss" / "epss_scores-2026-08-08.csv.gz").read_bytes()
    _answer(sources, "epss", Answer(body=packed[: len(packed) // 2], content_type="application/gzip"))
    return "answers with half a file"


BREAKS = {"epss": break_epss, "kev": break_kev}


def _answer(sources: Sources, name: str, answer: Answer) -> None:
    sources.server.answer(FEEDS[name].place, answer)


def _differs(record: dict[str, Any], before: dict[str, dict[str, Any]]) -> bool:
    known = before.get(record["cve"]["id"])
    return known is not None and known != record


def _modified_now(record: dict[str, Any]) -> dict[str, Any]:
    modified = copy.deepcopy(record)
    modified["cve"]["lastModified"] = _naive(datetime.now(UTC))
    return modified


def _naive(moment: datetime) -> str:
    """Write a moment as NVD does: in UTC, to the millisecond, without saying so."""
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")
