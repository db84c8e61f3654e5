"""Metasploit's modules as they are published: one JSON object, always whole, a module at each key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct, structs

from collectkit import Download, Rejected, decode_each

URL = "https://raw.githubusercontent.com/rapid7/metasploit-framework/master/db/modules_metadata_base.json"

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")


class _Module(Struct, frozen=True, kw_only=True):
    """One module. Its ``mod_time`` is not read: it is a file's, and moves when nothing else does."""

    fullname: Annotated[str, Meta(min_length=1)]
    name: str
    aliases: tuple[str, ...] = ()
    type: str
    rank: int | None = None
    disclosure_date: date | None = None
    author: tuple[str, ...] = ()
    description: str
    platform: str = ""
    arch: str = ""
    path: str
    references: tuple[str, ...]


def read_modules(feed: Download) -> Iterator[dict[str, Any] | Rejected]:
    """Decode the file module by module.

    Raises:
        FetchError: it is no JSON object.
    """
    for module in decode_each(feed.json(dict[str, Raw]).values(), _Module, key="fullname"):
        yield module if isinstance(module, Rejected) else _row(module)


def _row(module: _Module) -> dict[str, Any]:
    row = structs.asdict(module)
    row["refs"] = row.pop("references")
    # Other kinds of references are addresses, and numbers of Exploit-DB and others; some CVE ids are none.
    row["cve_ids"] = sorted({ref for ref in map(str.upper, module.references) if _CVE.fullmatch(ref)})
    return row
