"""osv.dev's bucket: for each ecosystem an index by date, a file for each record, and all of them in an archive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from collectkit import Download, Rejected, decode_files

URL = "https://osv-vulnerabilities.storage.googleapis.com"

_Id = Annotated[str, Meta(min_length=1, max_length=500)]
_Moment = Annotated[datetime, Meta(tz=True)]
_Objects = tuple[dict[str, Any], ...]
_MAY_BE_POISON = 0.05


class Index(Struct, frozen=True):
    """When each record of an ecosystem was modified; None where nobody has filled it in.

    Attributes:
        poison: what is wrong with the lines that are none.
    """

    entries: tuple[tuple[datetime | None, str], ...]
    poison: tuple[str, ...]

    def newest(self, until: datetime) -> datetime | None:
        """Return the last time of all that are not to come, None if there is none."""
        return max((modified for modified, _ in self.entries if modified and modified <= until), default=None)

    @property
    def ids(self) -> list[str]:
        """Return all records."""
        return [each for _, each in self.entries]

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
    aliases: tuple[_Id, ...] | None = None
    summary: str | None = None
    severity: _Objects | None = None
    affected: _Objects | None = None

    def __post_init__(self) -> None:
        self.ecosystems()  # what is not of this form is rejected with the record
        if any(moment.year == 9999 for moment in (self.modified, self.published, self.withdrawn) if moment):
            raise ValueError("a time lies beyond those that can be kept")

    def ecosystems(self) -> list[str]:
        """Return where the affected packages are at home, without the release behind a colon."""
        affected = msgspec.convert(self.affected or (), tuple[_Affected, ...])
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
    severity: _Objects
    affected: _Objects


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

    One line in twenty may be none: should it be that of a record that has changed, the archive has it too.

    Raises:
        FetchError: it lists nothing, or has too many lines that are none.
    """
    entries, poison, number = [], [], 0
    with feed.open() as lines:
        for number, line in enumerate(lines, 1):
            modified, _, record = line.decode(errors="replace").strip().partition(",")
            try:
                moment, each = msgspec.convert((modified, record), tuple[_Moment, _Id])
            except msgspec.ValidationError as error:
                poison.append(f"line {number} is no time and id: {error}")
                continue
            entries.append((_known(moment), each))
    if len(poison) > _MAY_BE_POISON * number:
        raise feed.refused(poison[0])
    if not entries:
        raise feed.refused("lists no records at all")
    return Index(tuple(entries), tuple(poison))


def id_of(name: str) -> str:
    """Return the id of the record that a file of an archive is named by."""
    return name.rpartition("/")[2].removesuffix(".json")


def read_rows(
    files: Iterable[tuple[str, bytes | Rejected]],
    ecosystem: str,
    ecosystems: Collection[str],
    held: Mapping[str, datetime],
) -> Iterator[Row | Rejected]:
    """Decode records, each by itself, out of files that are named by their ids.

    A record may affect packages of several ecosystems, and is then listed in each. Its row says the first of them that
    is one of ``ecosystems``, so that it says the same whichever list it came from; ``ecosystem`` if there is none.

    One that was modified before the row that is ``held`` is rejected: it comes from a stale cache, and the row stays.
    That cannot be said of one whose date nobody has filled in.
    """
    for _, body, record in decode_files(files, _Record, key=id_of):
        if isinstance(record, Rejected):
            yield record
        elif record.id in held and (modified := _known(record.modified)) and modified < held[record.id]:
            yield Rejected(body, "is older than the row that is in", record.id)
        else:
            home = next((each for each in record.ecosystems() if each in ecosystems), ecosystem)
            yield _row(record, home)


def _row(record: _Record, ecosystem: str) -> Row:
    return Row(
        id=record.id,
        ecosystem=ecosystem,
        modified=_known(record.modified),
        published=_known(record.published),
        withdrawn=_known(record.withdrawn),
        aliases=record.aliases or (),
        summary=record.summary or "",
        severity=record.severity or (),
        affected=record.affected or (),
    )


def _known(moment: datetime | None) -> datetime | None:
    """Return the moment unless it is Go's zero time, which says that nobody has filled it in."""
    return None if moment is None or moment.year == 1 else moment
