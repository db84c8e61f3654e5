"""HTTP for sources: the whole body on the disk, judged, before a checkpoint opens; or the news that there is none."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from logging import LoggerAdapter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

from urllib3.util import Retry

from collectkit.body import MIB, Download
from collectkit.crashpoints import reached
from collectkit.download import PATIENCE, Answer, Wanted, download
from collectkit.errors import FetchError, TooLarge
from collectkit.ratelimit import RateLimit
from collectkit.redaction import redact

META_KEY = "_http"
"""The key of ``meta_attr`` for validators and digests: a rewind drops it; no status shows what begins with `_`."""

_PIECE = MIB
_PLAIN_FACTOR = 16  # of max_bytes; the feeds' JSON shrinks by 5 to 10, a decompression bomb by 1,000
_GZIP = b"\x1f\x8b"
_GZIP_LAYERS = 2  # a .gz file that a server compresses once more on the way
_KINDS = {"html": "html", "xhtml": "html", "json": "JSON", "csv": "CSV", "xml": "XML", "zip": "ZIP"}


class Asking(Protocol):
    """What ``fetch`` looks at in a ``Run``, so that a source can be tried without a database."""

    @property
    def is_complete(self) -> bool:
        """Whether the rows of the last fetch are all in; only then can "unchanged" be an answer."""

    @property
    def meta_attr(self) -> Mapping[str, Any]:
        """Where the validators of the last fetch are."""

    @property
    def log(self) -> LoggerAdapter[Any]:
        """Told about tries that failed."""


@contextmanager
def fetch(
    run: Asking,
    url: str,
    *,
    accept: str = "application/json",
    max_bytes: int = 64 * MIB,
    timeout: timedelta = timedelta(minutes=5),
    headers: Mapping[str, str] | None = None,
    retries: Retry = PATIENCE,
    limit: RateLimit | None = None,
    conditional: bool = True,
) -> Iterator[Download]:
    """Download the whole body before a checkpoint opens; within the ``with`` it is a file.

    ::

        with fetch(run, settings.url) as feed:
            if feed.unchanged:
                run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
                return "unchanged"
            catalog = feed.json(Catalog)
            with run.checkpoint(updated_until_dt=run.started_at, meta_attr=feed.meta) as batch:
                return str(batch.replace(Entry, catalog.rows()))

    If the data are complete and validators of this very address are stored, the request is conditional. The body
    decides what it is: gzip is known by its first two bytes whatever type or encoding are announced, and a type is
    refused only if it contradicts, as a page in HTML does where JSON was asked for. ``http_proxy``, ``https_proxy`` and
    ``no_proxy`` of the environment are followed.

    Arguments:
        run: the run that asks.
        url: http or https; user and password in it become an Authorization header.
        accept: the media type that is wanted.
        max_bytes: the limit of the body as it travels; unpacked it may have 16 times as much.
        timeout: the limit of everything together, waiting between tries included.
        headers: more of them, for instance a key; they do not follow a redirect to another host.
        retries: urllib3's Retry; which answers are tried again, how often and how soon.
        limit: what the source takes; each request counts, those that are tried again or redirected included, and waits
            for its turn, within ``timeout``.
        conditional: whether "unchanged" is an answer; False downloads the body whatever was committed before.

    Raises:
        FetchError: in one line, without secrets: the source does not answer, answers with an error, sends too much (a
            ``TooLarge``), too slowly, too little, or something else than was asked for. The old rows stand.
    """
    reached("fetch.before")
    stored = _stored(run, url) if conditional else {}
    wanted = Wanted(
        url=url,
        headers={
            "Accept": accept,
            "Accept-Encoding": "gzip",
            "User-Agent": _user_agent(),
            **(headers or {}),
            **_conditions(stored),
        },
        fits=lambda content_type: not contradicts(content_type, accept),
        max_bytes=max_bytes,
        seconds=timeout.total_seconds(),
        retries=retries,
        warn=run.log.warning,
        limit=limit,
    )
    with TemporaryDirectory(prefix="collectkit-") as place:
        body = Path(place, "0")
        with body.open("wb") as file:
            answer = download(wanted, file)
        reached("fetch.after")
        if answer.not_modified:
            sha256, size, plain = stored["sha256"], 0, None
        else:
            plain = _unpack(redact(url), body, max_bytes * _PLAIN_FACTOR)
            sha256, size = _digest(plain), plain.stat().st_size
        yield Download(
            url=redact(url),
            unchanged=sha256 == stored.get("sha256"),
            sha256=sha256,
            size=size,
            meta={META_KEY: {_key(url): _validators(answer, sha256, stored)}},
            file=plain,
            limit=max_bytes * _PLAIN_FACTOR,
        )


def meta_of(*downloads: Download) -> dict[str, Any]:
    """Put the validators of several downloads together, for the one checkpoint that commits the rows of all.

    Each ``meta`` alone replaces what is stored, so that an address that is no longer asked is forgotten: should it come
    back, its old validators would speak of rows that are long replaced.
    """
    return {META_KEY: {key: value for each in downloads for key, value in each.meta[META_KEY].items()}}


def contradicts(content_type: str, accept: str) -> bool:
    """Whether a body of the announced type cannot be what was asked for.

    Missing, generic and unknown types contradict nothing: servers send feeds as ``text/plain``, as
    ``application/octet-stream`` and worse, and the body decides.
    """
    sent = _kind(content_type)
    asked = [_kind(each) for each in accept.split(",")]
    return sent is not None and None not in asked and sent not in asked


def _kind(media_type: str) -> str | None:
    _, _, subtype = media_type.partition(";")[0].strip().lower().partition("/")
    return _KINDS.get(subtype.rpartition("+")[2]) or _KINDS.get(subtype.partition("+")[0])


def _key(url: str) -> str:
    """Name an address without showing it: it may hold a key."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _stored(run: Asking, url: str) -> Mapping[str, str]:
    if not run.is_complete:
        return {}
    kept = run.meta_attr.get(META_KEY)
    stored = kept.get(_key(url)) if isinstance(kept, dict) else None
    return stored if isinstance(stored, dict) and "sha256" in stored else {}


def _conditions(stored: Mapping[str, str]) -> dict[str, str]:
    names = {"etag": "If-None-Match", "last_modified": "If-Modified-Since"}
    return {header: stored[name] for name, header in names.items() if name in stored}


def _validators(answer: Answer, sha256: str, stored: Mapping[str, str]) -> dict[str, str]:
    """Return what to send and to compare next time; a 304 that repeats none keeps those it confirmed."""
    sent = {"etag": answer.etag, "last_modified": answer.last_modified, "sha256": sha256}
    kept = stored if answer.not_modified else {}
    return {**kept, **{name: value for name, value in sent.items() if value is not None}}


def _unpack(shown: str, body: Path, max_bytes: int) -> Path:
    """Return the file without its gzip layers, checksums verified; the limit is kept while unpacking."""
    for layer in range(1, _GZIP_LAYERS + 1):
        with body.open("rb") as file:
            if file.read(2) != _GZIP:
                break
        plain = body.with_name(str(layer))
        size = 0
        try:
            with gzip.open(body) as packed, plain.open("wb") as into:
                while piece := packed.read(_PIECE):
                    size += len(piece)
                    if size > max_bytes:
                        raise TooLarge(shown, f"unpacks to more than the limit of {max_bytes:,} bytes")
                    into.write(piece)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FetchError(shown, f"sent gzip that is broken: {error}") from None
        body.unlink()
        body = plain
    return body


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()


@cache
def _user_agent() -> str:
    try:
        return f"collectkit/{version('collectkit')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "collectkit"
