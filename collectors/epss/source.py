"""The scores as they are published: one gzipped CSV file a day, always whole, its version in a comment before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field

from collectkit import Download, Rejected, TextRows

URL = "https://epss.empiricalsecurity.com/epss_scores-current.csv.gz"
MAX_BYTES = 16 << 20
"""A body of more is no file of scores: it has 2.5 MB, and grows by a tenth a year."""

# From 0 to 1, and no more digits than any source writes and PostgreSQL takes.
_Share = Annotated[
    str, Meta(pattern=r"^(?:0(?:\.[0-9]{1,30})?|1(?:\.0{1,30})?|[0-9](?:\.[0-9]{1,30})?[eE]-0?[1-9][0-9]?)\Z")
]


class Score(Struct, frozen=True):
    """One line of the file, its fields in the order of the table's columns."""

    cve_id: Annotated[str, Meta(pattern=r"^CVE-[0-9]{4}-[0-9]{4,19}\Z")] = field(name="cve")
    epss: _Share
    percentile: _Share


class Version(Struct, frozen=True):
    """Which scores the file holds."""

    model: str
    date: datetime


def read_version(feed: Download) -> Version:
    """Read the comment before the header, ``#model_version:v2026.06.15,score_date:2026-08-08T12:02:54Z``.

    The date has been written as ``T00:00:00+0000``, as ``T12:55:00Z`` and to the second.

    Raises:
        FetchError: there is no such comment, or its date is none.
    """
    with feed.text() as lines:
        comment = lines.readline(200).strip()
    told = dict(part.partition(":")[::2] for part in comment.removeprefix("#").split(","))
    model, date = told.get("model_version", "").strip(), told.get("score_date", "").strip()
    if not (comment.startswith("#") and comment.isprintable() and model and date):
        raise feed.refused(f"does not begin with model_version and score_date, but with {comment[:40]!r}")
    try:
        version = Version(model, datetime.fromisoformat(date))
    except ValueError:
        version = None
    if version is None or version.date.tzinfo is None:
        raise feed.refused(f"has the score_date {date[:40]!r}, which is no moment with its zone")
    return version


def read_scores(feed: Download) -> Iterator[TextRows | Sequence[str] | Rejected]:
    """Give the scores line by line, as they are written: a float is not as exact."""
    return feed.csv_texts(Score, key="cve_id", comment="#")
