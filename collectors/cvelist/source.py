"""The CVE List as it is published: a git repository with a JSON file for each CVE, in the CVE record format 5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from collectkit import Rejected, Repository, decode_files

URL = "https://github.com/CVEProject/cvelistV5.git"
RECORD = r"(?:^|/)CVE-[0-9]{4}-[0-9]{4,19}\.json$"
"""Matches the path of a record; what else the repository holds (``delta.json``, a README) is not one."""


class Text(Struct, frozen=True):
    """A text in one language."""

    value: str
    lang: str = "en"


class Cna(Struct, frozen=True, rename="camel"):
    """What the numbering authority says, the one container that every record has; others comment on it (``adp``)."""

    title: str | None = None
    descriptions: tuple[Text, ...] = ()
    rejected_reasons: tuple[Text, ...] = ()
    affected: tuple[dict[str, Any], ...] = ()


class Containers(Struct, frozen=True):
    """The parts of a record by who wrote them."""

    cna: Cna


class Metadata(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the list itself says of a record. Times without a zone occur; they are UTC like the others."""

    cve_id: str
    state: Annotated[str, Meta(min_length=1)]
    assigner_org_id: str
    assigner_short_name: str | None = None
    date_published: datetime | None = None
    date_updated: datetime | None = None

    def __post_init__(self) -> None:
        if not all(1 < moment.year < 9999 for moment in (self.date_published, self.date_updated) if moment):
            raise ValueError("a time lies beyond those that can be kept")


class Record(Struct, frozen=True, rename="camel"):
    """One file, as much of it as the table keeps."""

    containers: Containers
    metadata: Metadata = field(name="cveMetadata")


class Cve(Struct, frozen=True, kw_only=True):
    """One row of the table."""

    cve_id: str
    state: str
    assigner: str
    date_published: datetime | None
    date_updated: datetime | None
    title: str | None
    description: str | None
    affected: tuple[dict[str, Any], ...]


def cve_id(path: str) -> str:
    """Return the id of the record at this path: the name of its file."""
    return PurePosixPath(path).stem


def read_records(files: Iterable[tuple[str, bytes | Rejected]]) -> Iterator[Cve | Rejected]:
    """Yield a row for each file, or a ``Rejected`` for one that cannot be read or does not hold what its name says."""
    for path, body, record in decode_files(files, Record, key=cve_id):
        if isinstance(record, Rejected):
            yield record
        elif record.metadata.cve_id != cve_id(path):
            yield Rejected(body, "holds another CVE than its name says", cve_id(path))
        else:
            yield _row(record.metadata, record.containers.cna)


def vanished(repository: Repository) -> set[str]:
    """Return the ids whose file is gone; a file that only moved is not."""
    gone = {cve_id(path) for path in repository.gone(RECORD)}
    return gone and gone.difference(map(cve_id, repository.paths(RECORD)))


def _row(listed: Metadata, cna: Cna) -> Cve:
    return Cve(
        cve_id=listed.cve_id,
        state=listed.state,
        assigner=listed.assigner_short_name or listed.assigner_org_id,
        date_published=_utc(listed.date_published),
        date_updated=_utc(listed.date_updated),
        title=cna.title,
        description=_english(cna.descriptions or cna.rejected_reasons),
        affected=cna.affected,
    )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _english(texts: tuple[Text, ...]) -> str | None:
    """Return the English text, which every record should have, or else the first there is."""
    return next((text.value for text in texts if text.lang.lower().startswith("en")), texts[0].value if texts else None)
