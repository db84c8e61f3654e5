"""osv.dev's bucket: for each ecosystem an index by date, a file for each record, and all of them in an archive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from collectkit import Download, Rejected, decode_each

URL = "https://osv-vulnerabilities.storage.googleapis.com"

_Id = Annotated[str, Meta(min_length=1)]
_Moment = Annotated[datetime, Meta(tz=True)]
_NOTHING = Raw(b"[]")


class Index(Struct, frozen=True):
    """When each record of an ecosystem was modified; None where nobody has filled it in."""

    entries: tuple[tuple[datetime | None, str], ...]

    @property
    def newest(self) -> datetime | None:
        """The last time of all, None if there is none."""
        return max((modified for modified, _ in self.entries if modified), default=None)

    def since(self, moment: datetime) -> list[str]:
        """Return the records that may have changed since then: those of that very moment, and the undated, too."""
        return [each for modified, each in self.entries if modified is None or modified >= moment]


class _Package(Struct, frozen=True):
    ecosystem: str


class _Affected(Struct, frozen=True):
    package: _Package | None = None


class _Record(Struct, frozen=True, kw_only=True):
    id: _Id
    modified: _Moment
    published: _Moment | None = None
    withdrawn: _Moment | None = None
    aliases: tuple[str, ...] | None = None
    summary: str | None = None
    severity: Raw = _NOTHING
    affected: Raw = _NOTHING

    def __post_init__(self) -> None:
        self.ecosystems()  # what is not of this form is rejected with the record

    def ecosystems(self) -> list[str]:
        """Return where the affected packages are at home, without the release behind a colon."""
        affected = msgspec.json.decode(self.affected, type=tuple[_Affected, ...] | None) or ()
        return [each.package.ecosystem.partition(":")[0] for each in affected if each.package]


class Row(Struct, frozen=True, kw_only=True):
    """One record, its fields named as the columns of the table."""

    id: str
    ecosystem: str
    modified: datetime | None
    published: datetime | None
    withdrawn: datetime | None
    aliases: tuple[str, ...]
    summary: str
    severity: Raw
    affected: Raw


def index_url(root: str, ecosystem: str) -> str:
    """Return where the index is."""
    return f"{root.rstrip('/')}/{quote(ecosystem, safe='')}/modified_id.csv"


def archive_url(root: str, ecosystem: str) -> str:
    """Return where all records are."""
    return f"{root.rstrip('/')}/{quote(ecosystem, safe='')}/all.zip"


def record_url(root: str, ecosystem: str, record: str) -> str:
    """Return where one record is."""
    return f"{root.rstrip('/')}/{quote(ecosystem, safe='')}/{quote(record, safe='')}.json"


def read_index(feed: Download) -> Index:
    """Decode an index: a line for each record, the time it was modified and its id.

    Raises:
        FetchError: it lists nothing, or a line is none.
    """
    entries = []
    with feed.open() as lines:
        for number, line in enumerate(lines, 1):
            modified, _, record = line.decode(errors="replace").strip().partition(",")
            try:
                moment, each = msgspec.convert((modified, record), tuple[_Moment, _Id])
            except msgspec.ValidationError as error:
                raise feed.refused(f"line {number} is no time and id: {error}") from None
            entries.append((_known(moment), each))
    if not entries:
        raise feed.refused("lists no records at all")
    return Index(tuple(entries))


def read_rows(records: Iterable[bytes], ecosystem: str, ecosystems: Collection[str]) -> Iterator[Row | Rejected]:
    """Decode records, each by itself.

    A record may affect packages of several ecosystems, and is then listed in each. Its row says the first of them that
    is one of ``ecosystems``, so that it says the same whichever list it came from; ``ecosystem`` if there is none.
    """
    for record in decode_each(records, _Record, key="id"):
        if isinstance(record, Rejected):
            yield record
            continue
        yield Row(
            id=record.id,
            ecosystem=next((each for each in record.ecosystems() if each in ecosystems), ecosystem),
            modified=_known(record.modified),
            published=_known(record.published),
            withdrawn=record.withdrawn,
            aliases=record.aliases or (),
            summary=record.summary or "",
            severity=_list(record.severity),
            affected=_list(record.affected),
        )


def _known(moment: datetime | None) -> datetime | None:
    """Return the moment unless it is Go's zero time, which says that nobody has filled it in."""
    return None if moment is None or moment.year == 1 else moment


def _list(raw: Raw) -> Raw:
    return _NOTHING if bytes(raw) == b"null" else raw
