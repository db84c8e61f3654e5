"""What each fault of a source does to each feed: the one table that the tests play and the documentation shows.

``python -m tests.fault_table`` prints it as ``docs/reference/faults.md`` has it.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from tests.replay import Answer

PAGE = b"<html><head><title>Access Denied</title></head>\n<body>You have no permission.</body></html>\n"
BOMB = gzip.compress(bytes(1 << 20), mtime=0)
SMALL = 20_000
"""What a body may have, in bytes, where a bomb is tried: unpacked 16 times as much."""


class Effect(Enum):
    """What a run comes to, in words that the documentation explains."""

    UNCHANGED = "unchanged"
    TAKEN = "taken"
    IN_PART = "set aside"
    LAST = "the last is taken"
    PASSED = "passed over"
    REFUSED = "the run fails"


class Expected(NamedTuple):
    """What comes of a fault.

    Attributes:
        effect: what it does to rows and watermark.
        says: in the reason of the run, in its result or in the log; ``{accept}``, ``{size}`` and ``{limit}`` are the
            feed's.
    """

    effect: Effect
    says: str = ""


class Fault(NamedTuple):
    """One fault.

    Attributes:
        expected: of every feed; None if only those feeds have it that are named.
        differs: of those feeds that do it otherwise; None where there is no such fault.
        answers: what the server gives in the place of the good answer, in turn; it is told the good one, and how many
            bytes that usually has.
        in_pack: with a repository, what holds the objects is at fault, and not the answer before.
        cuts: the good answer lacks its last 40 bytes, or a repository the last third of its packs.
        shows: what the source shows otherwise than it should, as fields of ``Version``.
        behind: by how many versions the source goes back.
        limits: what a body may have, instead of the feed's own limit.
        silence: the seconds after which a source that says nothing is given up.
        waits: the seconds between the tries of those feeds that do as expected, if they are known.
    """

    expected: Expected | None
    differs: Mapping[str, Expected | None] = {}
    answers: Callable[[Answer, int], Sequence[Answer]] | None = None
    in_pack: bool = False
    cuts: bool = False
    shows: Mapping[str, int] = {}
    behind: int = 0
    limits: int | None = None
    silence: float | None = None
    waits: Sequence[float] | None = None


def _zipped_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        into.writestr("bomb.json", bytes(1 << 20))
    return packed.getvalue()


def _git(says: str) -> dict[str, Expected | None]:
    return {"cvelist": Expected(REFUSED, says)}


UNCHANGED, TAKEN, IN_PART, LAST, PASSED, REFUSED = Effect
INDEX, RECORD, ARCHIVE = "osv, the index", "osv, a record", "osv, the archive"
_TYPE = "where {accept} was asked for"
_SET_ASIDE = Expected(IN_PART, "records rejected: 1")
_TOO_MANY = "6 of 60 records rejected, more than max_rejected=0.01 allows"
_INDEX_LINE = Expected(IN_PART, "lines of the index passed over: 1")
_OLD_COPY = Expected(REFUSED, "an old copy")
_TO_COME = Expected(REFUSED, "which is to come")

FAULTS: dict[str, Fault] = {
    "304 Not Modified": Fault(
        Expected(UNCHANGED, "unchanged"),
        {"cvelist": None, "nvd": None},
        behind=1,
    ),
    "the same bytes under another ETag": Fault(
        Expected(UNCHANGED, "unchanged"),
        {"cvelist": None, "nvd": None},
        lambda good, _: [replace(good, etag='"another"')],
        behind=1,
    ),
    "429 with `Retry-After: 2`, and then the answer": Fault(
        Expected(TAKEN, "answered 429 Too Many Requests; try 2 follows in 2.0 s"),
        _git("The requested URL returned error: 429"),
        lambda good, _: [Answer(status=429, headers={"Retry-After": "2"}), good],
        waits=[2],
    ),
    "429 with `Retry-After: 120`": Fault(
        Expected(REFUSED, "answered 429 Too Many Requests and asks to wait 120 s, more than 60 s"),
        _git("The requested URL returned error: 429"),
        lambda *_: [Answer(status=429, headers={"Retry-After": "120"})],
        waits=[],
    ),
    "403 with a page in HTML": Fault(
        Expected(REFUSED, "answered 403 Forbidden"),
        _git("The requested URL returned error: 403"),
        lambda *_: [Answer(status=403, content_type="text/html", body=PAGE)],
        waits=[],
    ),
    "500, each time": Fault(
        Expected(REFUSED, "answered 500 Internal Server Error (4 tries)"),
        _git("The requested URL returned error: 500"),
        lambda *_: [Answer(status=500)],
    ),
    "503 once": Fault(
        Expected(TAKEN, "answered 503 Service Unavailable; try 2 follows in"),
        _git("The requested URL returned error: 503"),
        lambda good, _: [Answer(status=503), good],
    ),
    "silence in the middle of the body": Fault(
        Expected(REFUSED, "nothing more came in time (4 tries)"),
        _git("git was not done in time"),
        lambda good, _: [Answer(body=good.body, content_type=good.content_type, drip=1)],
        in_pack=True,
        silence=0.05,
    ),
    "a connection that breaks in the middle of the body": Fault(
        Expected(REFUSED, "the body ended after 100 of"),
        _git("RPC failed"),
        lambda good, _: [Answer(body=good.body, content_type=good.content_type, cut_after=100)],
        in_pack=True,
    ),
    "a body that was cut at the source": Fault(
        Expected(REFUSED, "is not JSON, it begins with"),
        {
            "cvelist": Expected(REFUSED, "error: packfile"),
            "epss": Expected(REFUSED, "sent gzip that is broken"),
            "exploitdb": Expected(REFUSED, "breaks off in the middle of a record"),
            INDEX: _INDEX_LINE,
            RECORD: _SET_ASIDE,
            ARCHIVE: Expected(REFUSED, "sent a ZIP archive that is broken"),
        },
        cuts=True,
    ),
    "an empty body": Fault(
        Expected(REFUSED, "sent an empty body"),
        _git("the remote end hung up unexpectedly"),
        lambda good, _: [Answer(content_type=good.content_type)],
    ),
    "a page in HTML": Fault(
        Expected(REFUSED, f"sent text/html {_TYPE}"),
        _git("is this a git repository?"),
        lambda *_: [Answer(content_type="text/html", body=PAGE)],
    ),
    "a page in HTML, announced as what was asked for": Fault(
        Expected(REFUSED, "is not JSON, it begins with '<html>"),
        {
            "cvelist": Expected(REFUSED, "bad line length character: <htm"),
            "epss": Expected(REFUSED, "does not begin with model_version and score_date, but with '<html>"),
            "exploitdb": Expected(REFUSED, "has no column 'id', its header is '<html>"),
            INDEX: Expected(REFUSED, "line 1 is no time and id"),
            RECORD: _SET_ASIDE,
            ARCHIVE: Expected(REFUSED, "sent a ZIP archive that is broken"),
        },
        lambda good, _: [Answer(content_type=good.content_type, body=PAGE)],
        in_pack=True,
    ),
    "the right body, announced as another type": Fault(
        Expected(REFUSED, f"sent application/xml {_TYPE}"),
        _git("is this a git repository?"),
        lambda good, _: [Answer(content_type="application/xml", body=good.body)],
    ),
    "a redirect": Fault(
        Expected(TAKEN),
        {},
        lambda *_: [Answer.redirect("/elsewhere")],
    ),
    "a redirect that leads to itself": Fault(
        Expected(REFUSED, "redirects more than 5 times"),
        _git("redirects followed"),
        lambda *_: [Answer.redirect("/loop")],
    ),
    "ten times as many bytes as usual": Fault(
        Expected(REFUSED, "announces {size:,} bytes, more than the limit of {limit:,}"),
        {"cvelist": None, RECORD: _SET_ASIDE},
        lambda good, usual: [Answer(body=good.body, content_type=good.content_type, announces=10 * usual)],
    ),
    "a decompression bomb": Fault(
        Expected(REFUSED, "unpacks to more than the limit of 320,000 bytes"),
        {"cvelist": None, RECORD: _SET_ASIDE},
        lambda good, _: [Answer(body=BOMB, content_type=good.content_type)],
        limits=SMALL,
    ),
    "a ZIP archive that is one": Fault(
        None,
        {ARCHIVE: Expected(REFUSED, "unpacks to 1,048,576 bytes, more than the limit of 320,000")},
        lambda good, _: [Answer(body=_zipped_bomb(), content_type=good.content_type)],
        limits=SMALL,
    ),
    "a repository of ten times its size": Fault(
        None,
        _git("bytes, more than the limit of 500,000"),
        shows={"bulk": True},
        limits=SMALL,
    ),
    "a file in it that is a bomb": Fault(
        None,
        {"cvelist": _SET_ASIDE},
        shows={"swollen": True},
        limits=SMALL,
    ),
    "no records": Fault(
        Expected(REFUSED, "the source gave no rows at all"),
        {
            "cvelist": Expected(REFUSED, "60 of 60 rows would go"),
            "nvd": Expected(PASSED, "empty windows: 1 of 1"),
            INDEX: None,
            RECORD: None,
            ARCHIVE: Expected(REFUSED, "lacks 60 of the 60 records that its index lists"),
        },
        shows={"empty": True},
    ),
    "half of the records": Fault(
        Expected(REFUSED, "30 of 60 rows no longer listed"),
        {
            "cvelist": Expected(REFUSED, "30 of 60 rows would go"),
            "nvd": None,
            INDEX: None,
            RECORD: None,
            ARCHIVE: Expected(REFUSED, "lacks 30 of the 60 records that its index lists"),
        },
        shows={"missing": 30},
    ),
    "one record that cannot be read": Fault(
        _SET_ASIDE,
        {INDEX: _INDEX_LINE},
        shows={"poison": 1},
    ),
    "a tenth of the records that cannot be read": Fault(
        Expected(REFUSED, _TOO_MANY),
        {INDEX: Expected(REFUSED, "line 1 is no time and id")},
        shows={"poison": 6},
    ),
    "an id that is listed twice": Fault(
        Expected(LAST, "rows superseded by a later row of the same key: 1"),
        shows={"twice": True},
    ),
    "an older version than the one that is in": Fault(
        Expected(PASSED, "passed over"),
        {
            "exploitdb": _OLD_COPY,
            "metasploit": _OLD_COPY,
            ARCHIVE: Expected(REFUSED, "is older than the row that is in"),
        },
        behind=2,
    ),
    "one record that is older than its row": Fault(
        None,
        {
            "nvd": Expected(IN_PART, "records older than those that are in, passed over: 1"),
            RECORD: _SET_ASIDE,
            ARCHIVE: _SET_ASIDE,
        },
        shows={"stale": True},
    ),
    "dates to come": Fault(
        Expected(TAKEN),
        {"cvelist": _TO_COME, "epss": _TO_COME, "exploitdb": _OLD_COPY, "kev": _TO_COME},
        shows={"ahead": True},
    ),
}


def expected_of(fault: str, feed: str) -> Expected | None:
    """What comes of the fault with this feed; None if it does not have it."""
    return FAULTS[fault].differs.get(feed, FAULTS[fault].expected)


def rendered() -> str:
    """The table as the documentation shows it."""
    lines = ["| what the source does | what comes of it | what is said |", "|---|---|---|"]
    for name, fault in FAULTS.items():
        if fault.expected is not None:
            lines.append(_line(name, fault.expected))
        groups: dict[Expected, list[str]] = {}
        for feed, expected in fault.differs.items():
            if expected is not None:
                groups.setdefault(expected, []).append(feed)
        for expected, feeds in groups.items():
            told = "; ".join(feeds)
            lines.append(_line(f"... {told}" if fault.expected is not None else f"{name}: {told}", expected))
    return "\n".join(lines) + "\n"


def _line(name: str, expected: Expected) -> str:
    says = expected.says.format(accept="...", size=_Dots(), limit=_Dots()).replace("|", "\\|")
    return f"| {name} | {expected.effect.value} | {f'`{says}`' if says else ''} |"


class _Dots:
    def __format__(self, _: str) -> str:
        return "..."


if __name__ == "__main__":
    print(rendered(), end="")
