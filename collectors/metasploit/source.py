"""Metasploit's modules as they are published: one JSON object, always whole, a module at each key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct, structs

from collectkit import Download, Rejected, decode_files

URL = "https://raw.githubusercontent.com/rapid7/metasploit-framework/master/db/modules_metadata_base.json"

MAX_BYTES = 64 << 20
"""A body of more is no list of modules: it has some 10 MB."""

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")


class _Module(Struct, frozen=True, kw_only=True):
    """One module. Its ``mod_time`` is not kept: it is a file's, and moves when nothing else does."""

    fullname: Annotated[str, Meta(min_length=1, max_length=500)]
    name: str
    aliases: tuple[str, ...] = ()
    type: str
    rank: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    disclosure_date: date | None = None
    author: tuple[str, ...] = ()
    description: str
    platform: str = ""
    arch: str = ""
    path: str
    references: tuple[str, ...]


class _File(Struct, frozen=True):
    mod_time: str


def read_modules(feed: Download) -> Mapping[str, Raw]:
    """Take the file apart into its modules.

    Raises:
        FetchError: it is no JSON object.
    """
    return feed.json(dict[str, Raw])


def read_rows(modules: Mapping[str, Raw]) -> Iterator[dict[str, Any] | Rejected]:
    """Decode the modules, each by itself; the key of ``auxiliary/admin/x`` is ``auxiliary_admin/x``."""
    for _, _, module in decode_files(modules.items(), _Module, key=lambda name: name.replace("_", "/", 1)):
        yield module if isinstance(module, Rejected) else _row(module)


def newest(modules: Mapping[str, Raw], until: datetime) -> datetime | None:
    """Return when the last of the modules' files was changed, those left out that say so of the future."""
    files = (module for _, _, module in decode_files(modules.items(), _File, key=str) if isinstance(module, _File))
    moments = (_moment(file.mod_time) for file in files)
    return max((moment for moment in moments if moment and moment <= until), default=None)


def _moment(mod_time: str) -> datetime | None:
    try:
        return datetime.strptime(mod_time, "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return None


def _row(module: _Module) -> dict[str, Any]:
    row = structs.asdict(module)
    row["refs"] = row.pop("references")
    # Other kinds of references are addresses, and numbers of Exploit-DB and others; some CVE ids are none.
    row["cve_ids"] = sorted({ref for ref in map(str.upper, module.references) if _CVE.fullmatch(ref)})
    return row
