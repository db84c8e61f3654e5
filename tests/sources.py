"""The sources of the shipped feeds, each played by a server or a repository of its own, in versions of sixty records.

From one version to the next every record changes. What a version lacks a test may ask for: records that cannot be
read, one that is listed twice, none at all, a date to come.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from collectkit import Collector, Outcome, RateLimit, download, git
from collectkit.database import ledger_db
from collectors.cvelist import tasks as cvelist
from collectors.epss import tasks as epss
from collectors.exploitdb import tasks as exploitdb
from collectors.kev import tasks as kev
from collectors.metasploit import tasks as metasploit
from collectors.nvd import tasks as nvd
from collectors.osv import tasks as osv
from tests.fault_table import Fault
from tests.feeds import advisory, catalog, cve_record, entry, exploits, modules, nvd_record, page, scores
from tests.githttp import REFS, serve_git
from tests.mirror import Mirror
from tests.replay import Answer, Replay
from tests.upstream import Upstream

RECORDS = 60
JSON, CSV, GZIP, ZIP = "application/json", "text/csv", "application/gzip", "application/zip"
BASE = datetime.now(UTC).replace(microsecond=123456) - timedelta(hours=2)


class Version(NamedTuple):
    """What a source shows.

    Attributes:
        number: the greater, the newer.
        poison: how many of the records cannot be read.
        twice: one is listed a second time.
        empty: there are no records.
        missing: how many records are left out.
        ahead: it is dated in the year after next.
        stale: the first record is as it was two versions ago.
        bulk: a repository holds a large file that is no record, and that cannot be packed.
        swollen: the first record of a repository unpacks to a megabyte.
    """

    number: int
    poison: int = 0
    twice: bool = False
    empty: bool = False
    missing: int = 0
    ahead: bool = False
    stale: bool = False
    bulk: bool = False
    swollen: bool = False

    @property
    def moment(self) -> datetime:
        return BASE + timedelta(days=700 if self.ahead else 0, seconds=self.number)

    @property
    def days(self) -> int:
        return self.number + 10_000 * self.ahead

    @property
    def text(self) -> str:
        return f"text {self.number}"

    def records(self, make: Callable[[int, Version], Any], spoil: Callable[[Any], Any]) -> list[Any]:
        """The records made by number and version, the first of them spoilt or stale, the last twice."""
        numbers = [] if self.empty else [*range(self.missing, RECORDS), *([RECORDS - 1] if self.twice else [])]
        before = self._replace(number=self.number - 2)
        made = [make(n, before if self.stale and n == 0 else self) for n in numbers]
        return [spoil(each) if n < self.poison else each for n, each in enumerate(made)]


class Feed(NamedTuple):
    """A shipped feed, and how its source is played.

    Attributes:
        path: of the answer that is at fault.
        accept: what the feed asks for there.
        usual: how many bytes that has in the world.
        files: what a version is, by path.
        limit: where the collector says how many bytes it may have.
    """

    tasks: ModuleType
    collector: Collector
    path: str
    accept: str
    usual: int
    files: Callable[[Version], Mapping[str, Any]]
    limit: str = "MAX_BYTES"


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {key: value for key, value in record.items() if key != name}


def kev_files(version: Version) -> Mapping[str, Answer]:
    entries = version.records(lambda n, v: entry(n, v.text), without("dueDate"))
    return {"/kev.json": Answer(body=catalog(entries, released=version.moment))}


def epss_files(version: Version) -> Mapping[str, Answer]:
    lines = version.records(
        lambda n, v: f"CVE-2026-{10_000 + n},0.{v.number:03}{n:02},0.5", lambda line: line.replace(",0.", ",much", 1)
    )
    body = scores([], date=version.moment.isoformat(timespec="seconds"), lines=lines)
    return {"/epss.csv.gz": Answer(body=body, content_type=GZIP)}


def exploitdb_files(version: Version) -> Mapping[str, Answer]:
    head, *lines = exploits(range(RECORDS), version=version.days).splitlines(keepends=True)
    listed = version.records(lambda n, _: lines[n], lambda line: line.replace(b",2020-", b",in 2020-", 1))
    return {"/exploits.csv": Answer(body=b"".join([head, *listed]), content_type="text/plain")}


def metasploit_files(version: Version) -> Mapping[str, Answer]:
    made = list(json.loads(modules(range(RECORDS), version=version.days * 24 * 60)).items())
    listed = version.records(lambda n, _: made[n], lambda item: (item[0], {**item[1], "rank": "great"}))
    named = dict(listed) | ({"twice": listed[-1][1]} if version.twice else {})
    return {"/modules.json": Answer(body=json.dumps(named).encode())}


def nvd_files(version: Version) -> Mapping[str, Answer]:
    records = version.records(
        lambda n, v: nvd_record(n, v.text, modified=v.moment),
        lambda record: {"cve": without("published")(record["cve"])},
    )
    return {"/nvd": Answer(body=page(records, timestamp=version.moment))}


def osv_files(version: Version) -> Mapping[str, Answer]:
    """The records at fault, and an index that is right; no records are an archive without any."""
    return _bucket(version, version._replace(poison=0, empty=False, missing=0))


def osv_index_files(version: Version) -> Mapping[str, Answer]:
    """The index at fault, and records that are right."""
    return _bucket(version._replace(poison=0), version)


def _bucket(records: Version, index: Version) -> Mapping[str, Answer]:
    made = records.records(lambda n, v: advisory(n, v.text, modified=v.moment), without("modified"))
    lines = index.records(
        lambda n, v: f"{v.moment.isoformat()},{_rustsec(n)}\n", lambda line: line.replace("T", " or so")
    )
    files = {f"/osv/crates.io/{each['id']}.json": _as_json(each) for each in made}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        for n, each in enumerate(made):
            into.writestr(f"{n}/{each['id']}.json", json.dumps(each))
    return {
        "/osv/crates.io/modified_id.csv": Answer(body="".join(lines).encode(), content_type=CSV),
        "/osv/crates.io/all.zip": Answer(body=packed.getvalue(), content_type=ZIP),
        **files,
    }


def _rustsec(n: int) -> str:
    return f"RUSTSEC-2026-{10_000 + n}"


def _as_json(value: Any) -> Answer:
    return Answer(body=json.dumps(value).encode())


def cvelist_files(version: Version) -> Mapping[str, bytes]:
    records = version.records(lambda n, v: cve_record(n, v.text), without("containers"))
    bulk = {"bulk": os.urandom(1 << 20)} if version.bulk else {}
    return bulk | {
        f"cves/{n}/{each['cveMetadata']['cveId']}.json": json.dumps(each).encode()
        + b" " * (version.swollen and n == 0) * (1 << 20)
        for n, each in enumerate(records)
    }


def _feed(tasks: ModuleType, path: str, accept: str, usual: int, files: Any, **more: Any) -> Feed:
    [collector] = [each for each in vars(tasks).values() if isinstance(each, Collector)]
    return Feed(tasks, collector, path, accept, usual, files, **more)


INDEX_PATH, RECORD_PATH, ARCHIVE_PATH = (
    f"/osv/crates.io/{each}" for each in ("modified_id.csv", f"{_rustsec(7)}.json", "all.zip")
)
MB = 1_000_000
FEEDS = {
    "cvelist": _feed(cvelist, "/list.git/info/refs", "", 0, cvelist_files),
    "epss": _feed(epss, "/epss.csv.gz", CSV, 2_500_000, epss_files),
    "exploitdb": _feed(exploitdb, "/exploits.csv", CSV, 10 * MB, exploitdb_files),
    "kev": _feed(kev, "/kev.json", JSON, 1_600_000, kev_files),
    "metasploit": _feed(metasploit, "/modules.json", JSON, 10 * MB, metasploit_files),
    "nvd": _feed(nvd, "/nvd", JSON, 10 * MB, nvd_files),
    "osv, the index": _feed(osv, INDEX_PATH, CSV, 10 * MB, osv_index_files),
    "osv, a record": _feed(osv, RECORD_PATH, JSON, 10 * MB, osv_files),
    "osv, the archive": _feed(osv, ARCHIVE_PATH, ZIP, 250 * MB, osv_files, limit="LARGEST"),
}


class Played:
    """A feed that is complete, and its source under a test's hands."""

    def __init__(self, feed: Feed, source: Replay, database_url: str, patch: pytest.MonkeyPatch) -> None:
        self.feed = feed
        self.number = 1
        self.waits: list[float] = []
        self._source = source
        self._mirror = Mirror(feed.collector, source, database_url)
        patch.setattr(feed.tasks, "settings", self._settings(source.base))
        patch.setattr(download, "_sleep", self.waits.append)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(nvd, "LIMIT", RateLimit(1000, timedelta(seconds=1)))
        self._patch = patch

    def show(self, version: Version, fault: Fault | None = None) -> None:
        """Show a version, and the fault in the place of the answer that may be at fault."""
        files = {path: replace(answer, etag=f'"{version.number}"') for path, answer in self.feed.files(version).items()}
        for path, answer in files.items():
            self._source.answer(path, answer)
        good = files[self.feed.path]
        self._source.answer("/elsewhere", good)
        self._source.answer("/loop", Answer.redirect("/loop"))
        if fault and fault.cuts:
            self._source.answer(self.feed.path, replace(good, body=good.body[:-40]))
        elif fault and fault.answers:
            self._source.answer(self.feed.path, *fault.answers(good, self.feed.usual))

    def limit(self, patch: pytest.MonkeyPatch, size: int) -> None:
        """Have an answer be too large that has more bytes than that."""
        patch.setattr(self.feed.tasks, self.feed.limit, size)

    def run(self) -> Outcome:
        """Run the collector once."""
        if self.feed.limit == "LARGEST":  # it is read once a week
            long_ago = """'{"reconciled": "2020-01-01T00:00:00Z"}'"""
            ledger_db.run(f"UPDATE collectkit.collector SET meta_attr = meta_attr || {long_ago}")
        self._patch.setattr(osv, "MANY", 0 if self.feed.limit == "LARGEST" else RECORDS)
        return self._run()

    def _run(self) -> Outcome:
        self.waits.clear()
        return self._mirror.run(**({"key": "crates.io"} if self.feed.tasks is osv else {}))

    def load(self) -> None:
        """Take the next version, of which every record is new."""
        before = self.rows
        self.number += 1
        self.show(Version(self.number))
        self._patch.setattr(osv, "MANY", 0)  # one archive is had sooner than 60 records
        outcome = self._run()
        assert outcome.outcome == "OK", outcome.reason
        assert len(self.rows) == RECORDS
        assert not before.items() & self.rows.items()

    @property
    def rows(self) -> dict[Any, str]:
        """The version of each row, by its key."""
        return self._mirror.versions

    @property
    def state(self) -> tuple[Any, dict[str, Any]]:
        """Watermark, and what else the next run goes on from."""
        watermark, meta = self._mirror.state
        return watermark, {name: value for name, value in meta.items() if name != "reconciled"}

    @property
    def result(self) -> str:
        """What the last run returned."""
        return self._mirror.result or ""

    def close(self) -> None:
        """Let go of the connection."""
        self._mirror.close()

    def _settings(self, base: str) -> Any:
        kind = type(self.feed.tasks.settings)
        return (
            kind(url=f"{base}/osv", ecosystems=("crates.io",))
            if kind is osv.OsvSettings
            else kind(url=base + self.feed.path)
        )


class PlayedGit(Played):
    """The same of a repository that is served over HTTP: at fault is what git asks for first, or its packs."""

    def __init__(self, directory: Path, source: Replay, database_url: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(FEEDS["cvelist"], source, database_url, patch)
        patch.setenv("GIT_CONFIG_GLOBAL", str(directory / "gitconfig"))
        self._directory = directory
        self._upstream = Upstream(directory / "upstream")
        self._fault: Fault | None = None
        self._turn = 0
        self._url = serve_git(
            source, self.feed.path.removesuffix(REFS), self._upstream.directory, spoil=self._perhaps_spoilt
        )
        serve_git(source, "/elsewhere", self._upstream.directory)
        source.answer(f"/loop{REFS}", _led("/loop"))

    def show(self, version: Version, fault: Fault | None = None) -> None:
        """Publish a version, and have the server do what the fault says."""
        self._upstream.publish(self.feed.files(version), at=version.moment)
        self._fault, self._turn = fault, 0
        url = self._cut() if fault and fault.cuts else self._url
        self._patch.setattr(cvelist, "settings", cvelist.CvelistSettings(url=url))
        is_silent = fault and fault.silence
        self._patch.setattr(cvelist, "TIMEOUT", timedelta(seconds=1) if is_silent else timedelta(minutes=1))

    def limit(self, patch: pytest.MonkeyPatch, size: int) -> None:
        """Have what is too large be a clone, or an unpacked file."""
        patch.setattr(cvelist, self.feed.limit, 25 * size)
        patch.setattr(git, "_LARGEST_FILE", 16 * size)

    def _perhaps_spoilt(self, good: Answer, holds_objects: bool) -> Answer:
        if not self._fault or not self._fault.answers or self._fault.in_pack != holds_objects:
            return good
        answers = self._fault.answers(good, len(good.body))
        answer = answers[min(self._turn, len(answers) - 1)]
        self._turn += 1
        location = answer.headers.get("Location")
        return _led(location) if location else answer

    def _cut(self) -> str:
        """Return a copy of the repository whose packs lack their last third."""
        copy = self._directory / f"cut-{self.number}"
        shutil.copytree(self._upstream.directory, copy)
        for pack in copy.glob("objects/pack/*.pack"):
            pack.chmod(0o600)
            pack.write_bytes(pack.read_bytes()[: pack.stat().st_size * 2 // 3])
        return f"file://{copy}"


def _led(path: str) -> Answer:
    return Answer.redirect(f"{path}{REFS}?service=git-upload-pack")
