"""Whatever stands in one field of one record, the record is rejected or loaded, and no run fails for it."""

from __future__ import annotations

import csv
import io
import json
import random
import string
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from collectkit import Download, acl_scope, collector, cron
from collectors.cvelist.models import Cvelist
from collectors.cvelist.source import read_records
from collectors.epss.models import Epss
from collectors.epss.source import read_scores
from collectors.exploitdb.models import Exploitdb
from collectors.exploitdb.source import newest as newest_exploit
from collectors.exploitdb.source import read_exploits
from collectors.kev.models import Kev
from collectors.kev.source import read_catalog
from collectors.metasploit.models import Metasploit
from collectors.metasploit.source import newest as newest_module
from collectors.metasploit.source import read_modules
from collectors.metasploit.source import read_rows as read_module_rows
from collectors.nvd.models import Nvd
from collectors.nvd.source import read_page
from collectors.nvd.source import read_rows as read_nvd_rows
from collectors.osv.models import Osv
from collectors.osv.source import read_rows as read_osv_rows
from tests.feeds import advisory, cve_record, entry, exploits, modules, nvd_record

NOW = datetime(2026, 8, 4, tzinfo=UTC)
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=5000))  # PostgreSQL cannot compress it into an index
DEEP: Any = json.loads("[" * 700 + "]" * 700)
TEXTS = [
    *("", " ", "x", "7", "-1", "0.5", "1e-20000", "NaN", "Infinity", "true", "null", "99999999999", "1" * 400, "1e400"),
    *("0000-00-00", "9999-99-99", "0001-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00"),
    *("2026-01-01T00:00:00", "1970-01-01", "CVE-2026-99999\n", "CVE-0000-0000", LONG, "\0", "a\0b", "\\", "\t\r\n"),
    *("\U0001f600", "\ufffe", "'; DROP TABLE kev --", "{}", "[]"),
]
VALUES = [None, True, 0, -1, 7, 2**31, 2**63, 10**400, 0.5, -1e308, [], {}, [None], [[]], [{}], {"": None}, DEEP]
# What no Python value is written as.
RAW = {
    "@half": rb'"\ud800"',
    "@halves": rb'"x\udc00\ud800"',
    "@bytes": b'"\xff"',
    "@small": b"1e-999999",
    "@large": b"1e999",
}

MODULE = {**json.loads(modules([5])).popitem()[1], "fullname": "auxiliary/123456789"}
EXPLOIT = {**next(csv.DictReader(io.StringIO(exploits([8]).decode()))), "id": "123456789"}
KEV = {**entry(0), "cveID": "CVE-2026-123456789"}
NVD = {"cve": {**nvd_record(0, modified=NOW)["cve"], "id": "CVE-2026-123456789"}}
CVE = {**cve_record(0), "cveMetadata": {**cve_record(0)["cveMetadata"], "cveId": "CVE-2026-123456789"}}
OSV = {**advisory(0, modified=NOW - timedelta(days=1)), "id": "RUSTSEC-123456789"}
SCORE = {"cve": "CVE-2026-123456789", "epss": "0.5", "percentile": "0.5"}


def spoiled(value: Any) -> Iterator[Any]:
    """The value with each part of it gone, and with each piece of garbage in the place of each part."""
    yield from [*VALUES, *TEXTS, *RAW]
    if isinstance(value, dict):
        for name, part in value.items():
            yield {other: each for other, each in value.items() if other != name}
            yield from ({**value, name: each} for each in spoiled(part))
    elif isinstance(value, list):
        yield from ([each, *value[1:]] for each in spoiled(value[0]))


def written(record: Any) -> bytes:
    text = json.dumps(record).encode()
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark).encode(), raw)
    return text


class Feed(NamedTuple):
    """How records become a body, and a body rows."""

    model: Any
    record: dict[str, Any]
    written: Callable[[Any], bytes]
    body: Callable[[Iterable[bytes]], bytes]
    rows: Callable[[Download, list[bytes]], Iterable[Any]]


def catalog(records: Iterable[bytes]) -> bytes:
    entries = list(records)
    head = b'{"catalogVersion": "2026.08.04", "dateReleased": "2026-08-04T16:45:52Z", "count": %d, "vulnerabilities": ['
    return head % len(entries) + b",".join(entries) + b"]}"


def page(records: Iterable[bytes]) -> bytes:
    head = b'{"startIndex": 0, "totalResults": 1, "timestamp": "2026-01-01T00:00:00", "vulnerabilities": ['
    return head + b",".join(records) + b"]}"


def named(records: Iterable[bytes]) -> bytes:
    return b"{" + b",".join(b'"auxiliary_made/up%d": %b' % each for each in enumerate(records)) + b"}"


def line(record: Any) -> bytes:
    into = io.StringIO()
    cells = list(record.values()) if isinstance(record, dict) else [record]
    csv.writer(into, lineterminator="\n").writerow(cells)
    return into.getvalue().encode(errors="surrogatepass")


def module_rows(feed: Download, _: list[bytes]) -> Iterable[Any]:
    found = read_modules(feed)
    newest_module(found, NOW)
    return read_module_rows(found)


def exploit_rows(feed: Download, _: list[bytes]) -> Iterable[Any]:
    newest_exploit(feed, NOW.date())
    return read_exploits(feed)


def osv_rows(_: Download, records: list[bytes]) -> Iterable[Any]:
    files = [(f"{n}.json", each) for n, each in enumerate(records)]
    return read_osv_rows(files, "crates.io", ["crates.io"], {"RUSTSEC-100000000": NOW})


def cvelist_rows(_: Download, records: list[bytes]) -> Iterable[Any]:
    return read_records((f"cves/CVE-2026-{100_000_000 + n}.json", each) for n, each in enumerate(records))


FEEDS = {
    "kev": Feed(Kev, KEV, written, catalog, lambda feed, _: read_catalog(feed).entries()),
    "nvd": Feed(Nvd, NVD, written, page, lambda feed, _: read_nvd_rows(read_page(feed, 0))),
    "cvelist": Feed(Cvelist, CVE, written, b"".join, cvelist_rows),
    "osv": Feed(Osv, OSV, written, b"".join, osv_rows),
    "metasploit": Feed(Metasploit, MODULE, written, named, module_rows),
    "exploitdb": Feed(
        Exploitdb, EXPLOIT, line, lambda lines: b"".join([line({n: n for n in EXPLOIT}), *lines]), exploit_rows
    ),
    "epss": Feed(
        Epss,
        SCORE,
        line,
        lambda lines: b"".join([line({n: n for n in SCORE}), *lines]),
        lambda feed, _: read_scores(feed),
    ),
}


@pytest.mark.parametrize("name", FEEDS)
def test_garbage_in_a_field_costs_its_record_at_most(db, tmp_path, name):
    feed = FEEDS[name]
    spoilt = [feed.written(each) for each in (feed.record, *spoiled(feed.record))]
    records = [each.replace(b"123456789", b"%d" % (100_000_000 + n)) for n, each in enumerate(spoilt)]
    file = Path(tmp_path, "body")
    file.write_bytes(feed.body(records))
    download = Download(url="http://feed.example/", unchanged=False, sha256="", size=0, meta={}, file=file)

    @collector(periodic=cron("0 * * * *"), data_models=[feed.model], acl="public", name=f"tests.garbage_{name}")
    def load(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(feed.model, feed.rows(download, records), max_rejected=1)

    db.enrol(load)
    outcome = load.run_now()

    assert outcome.outcome == "OK", outcome.reason
    assert outcome.counts.inserted > 0
    assert outcome.counts.rejected > len(records) / 4
    with acl_scope(["public"]):
        assert len(list(feed.model.select())) == outcome.counts.inserted
