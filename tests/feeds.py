"""Bodies in the layout of the sources of epss, exploitdb and metasploit, made by a rule and without any of their data.

Records are numbers; two bodies differ in what their arguments say, and in nothing else.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Collection, Iterable
from datetime import date, timedelta
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


def exploits(numbers: Iterable[int], *, other: Collection[int] = (), short: bool = False) -> bytes:
    """The index of Exploit-DB, in 17 columns or in the 8 of before 2022: ``other`` have another description."""
    into = io.StringIO()
    table = csv.DictWriter(into, (_SHORT if short else _LONG).split(","), extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(_exploit(n, edited=n in other) for n in numbers)
    return into.getvalue().encode()


def modules(numbers: Iterable[int], *, other: Collection[int] = (), touched: Collection[int] = ()) -> bytes:
    """Metasploit's modules: ``other`` have another description, ``touched`` only another ``mod_time``."""
    found = [_module(n, edited=n in other, touched=n in touched) for n in numbers]
    return json.dumps({each["fullname"].replace("/", "_", 1): each for each in found}, indent=2).encode()


def _part(number: int, factor: int) -> str:
    return f"{number * factor % 99_991 / 100_000:.5f}"


def _exploit(n: int, *, edited: bool) -> dict[str, Any]:
    kind, platform = _KINDS[n % 4], _PLATFORMS[n % 3]
    day = date(2020, 1, 1) + timedelta(days=n)
    return {
        "id": n,
        "file": f"exploits/{platform}/{kind}/{n}.py",
        "description": f'Made-up "Server" {n}.{n % 7}, {"Corrected" if edited else "Buffer"} Overflow',
        "date": day,
        "date_published": day,
        "author": f"Nobody No. {n % 11}",
        "type": kind,
        "platform": platform,
        "port": 8000 + n if kind == "remote" else "",
        "date_added": day,
        "date_updated": "" if n % 2 else day + timedelta(days=3),
        "verified": n % 2,
        "codes": ["", f"CVE-2020-{10_000 + n}", f"CVE-2020-{10_000 + n};OSVDB-{n};cve-2019-{20_000 + n}"][n % 3],
        "source_url": f"https://exploits.example/{n}",
    }


def _module(n: int, *, edited: bool, touched: bool) -> dict[str, Any]:
    kind, platform = ("auxiliary", "exploit")[n % 2], _PLATFORMS[n % 3]
    name = f"{platform}/http/made_up_{n}"
    return {
        "name": f"Made-up Server {n}",
        "fullname": f"{kind}/{name}",
        "aliases": [f"{kind}/{platform}/old_{n}"] if n % 5 == 0 else [],
        "rank": 300 + 100 * (n % 4),
        "disclosure_date": None if n % 3 == 0 else str(date(2020, 1, 1) + timedelta(days=n)),
        "type": kind,
        "author": ["nobody <nobody@modules.example>", f"No. {n}"],
        "description": f"This module {'really' if edited else 'only'} tests a parser.",
        "references": [f"CVE-2020-{10_000 + n}", "CVE-2222-xxxx", f"URL-https://modules.example/{n}"],
        "platform": platform.title(),
        "arch": "",
        "rport": 80,
        "targets": None,
        "mod_time": f"2026-1{int(touched)}-02 17:38:06 +0000",
        "path": f"/modules/{kind}/{name}.rb",
        "is_install_path": True,
        "ref_name": name,
        "check": False,
        "notes": {},
    }
