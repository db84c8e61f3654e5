"""One HTTP body onto the disk, whole or not at all: retries, redirects and limits; it knows nothing of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import BinaryIO, Never
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3
from urllib3 import exceptions as http
from urllib3.util import Retry, Timeout

from collectkit.crashpoints import reached
from collectkit.errors import FetchError, TooLarge
from collectkit.ratelimit import RateLimit
from collectkit.redaction import redact, shown_complaint
from collectkit.url import checked, may_know, without_user

PATIENCE = Retry(total=3, status_forcelist={429, 500, 502, 503, 504}, backoff_factor=1, backoff_jitter=1)
"""Four tries; about 0, 2 and 4 seconds between them, each with up to a second of chance added."""

LONGEST_WAIT = 60.0
"""Seconds that a source may ask for in Retry-After; whoever asks for more gets the next run instead."""

OPEN_HEADERS = frozenset({"accept", "accept-encoding", "if-modified-since", "if-none-match", "user-agent"})
"""What any host may see; whatever else an author sends may be a key."""

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
_PIECE = 1 << 16
_OK, _NOT_MODIFIED = 200, 304


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and how much of it, how long and how often.

    Attributes:
        url: the address, with its secrets.
        headers: sent to the source; of these only ``OPEN_HEADERS`` go along when it redirects to another host.
        fits: says whether a Content-Type may hold what is wanted; it is asked before the body is read.
        max_bytes: the limit of the body as it travels.
        seconds: the limit of everything together, waiting between tries included.
        limit: counts each request, retries and redirects included, and makes it wait for its turn.
        warn: told about each try that failed, in one line.
    """

    url: str
    headers: Mapping[str, str]
    fits: Callable[[str], bool]
    max_bytes: int
    seconds: float
    retries: Retry
    warn: Callable[[str], None]
    limit: RateLimit | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the source said: 200 with the body written, or 304 without one."""

    status: int
    etag: str | None
    last_modified: str | None

    @property
    def not_modified(self) -> bool:
        """Whether the source holds that the stored validators still fit."""
        return self.status == _NOT_MODIFIED


class _Setback(Exception):
    """A try failed in a way that may pass."""

    def __init__(self, reason: str, status: int | None = None, retry_after: float | None = None) -> None:
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        super().__init__(reason)


def download(wanted: Wanted, into: BinaryIO) -> Answer:
    """The whole body is in the file, or there was none to send.

    Broken connections, cut bodies and the statuses that ``retries`` lists are tried again as it says, and no sooner
    than the source's Retry-After; everything else is final at once.

    Raises:
        FetchError: with the reason of the last try.
    """
    shown, ends, patience, tries = redact(wanted.url), time.monotonic() + wanted.seconds, wanted.retries, 1
    while True:
        into.seek(0)
        into.truncate()
        try:
            return _try(wanted, into, ends)
        except _Setback as caught:
            setback = caught
        try:
            patience = patience.increment("GET", error=http.ProtocolError(setback.reason))
        except http.HTTPError:
            reason = f"{setback.reason} ({tries} tries)" if tries > 1 else setback.reason
            raise FetchError(shown, reason, setback.status) from None
        asked = setback.retry_after
        wait = patience.get_backoff_time() if asked is None else asked
        if wait > LONGEST_WAIT:
            raise FetchError(shown, f"{setback.reason} and asks to wait {wait:.0f} s, more than {LONGEST_WAIT:.0f} s")
        if time.monotonic() + wait >= ends:
            raise FetchError(shown, f"{setback.reason}, and no time is left of {wanted.seconds:g} s to try again")
        wanted.warn(f"{shown}: {setback.reason}; try {tries + 1} follows in {wait:.1f} s")
        tries += 1
        _sleep(wait)


def _try(wanted: Wanted, into: BinaryIO, ends: float) -> Answer:
    """Ask once, following redirects."""
    shown = redact(wanted.url)
    address, credentials = without_user(checked(wanted.url, wanted.url))
    headers = {**credentials, **{name.lower(): value for name, value in wanted.headers.items()}}
    for _ in range(MAX_REDIRECTS + 1):
        with _pool(address.geturl()) as pool:
            try:
                with nullcontext() if wanted.limit is None else wanted.limit.request(give_up=ends):
                    response = pool.request(
                        "GET",
                        address.geturl(),
                        headers=headers,
                        timeout=Timeout(connect=min(CONNECT_SECONDS, _left(wanted, ends)), read=_silence(wanted, ends)),
                        retries=False,
                        redirect=False,
                        preload_content=False,
                        decode_content=False,
                    )
                try:
                    location = response.get_redirect_location()
                    if not location:
                        return _receive(wanted, response, into, ends)
                finally:
                    response.close()
            except TimeoutError:  # the limit's; those of the connection urllib3 has wrapped
                raise FetchError(shown, f"no turn came within {wanted.seconds:g} s under {wanted.limit}") from None
            except http.HTTPError as error:
                _explain(error)
        before = address
        target = checked(wanted.url, urljoin(before.geturl(), location), from_scheme=before.scheme)
        address, credentials = without_user(target)
        if not may_know(before, address):
            headers = {name: value for name, value in headers.items() if name in OPEN_HEADERS}
        headers |= credentials
    raise FetchError(shown, f"redirects more than {MAX_REDIRECTS} times")


def _receive(wanted: Wanted, response: urllib3.BaseHTTPResponse, into: BinaryIO, ends: float) -> Answer:
    """Judge the head, then take the body piece by piece: each limit is checked as it comes, not afterwards."""
    shown, head = redact(wanted.url), response.headers
    answer = Answer(status=response.status, etag=head.get("ETag"), last_modified=head.get("Last-Modified"))
    if answer.not_modified and {"if-none-match", "if-modified-since"} & {name.lower() for name in wanted.headers}:
        return answer
    if response.status != _OK:
        _, credentials = without_user(urlsplit(wanted.url))
        secret = [value for name, value in wanted.headers.items() if name.lower() not in OPEN_HEADERS]
        said = shown_complaint(response, (wanted.url, response.url or ""), [*secret, *credentials.values()])
        reason = f"answered {response.status} {said}".rstrip()
        if wanted.retries.is_retry("GET", response.status, "Retry-After" in head):
            raise _Setback(reason, response.status, _retry_after(wanted.retries, response))
        raise FetchError(shown, reason, response.status)
    if not wanted.fits(head.get("Content-Type", "")):
        raise FetchError(shown, f"sent {head['Content-Type']} where {wanted.headers['Accept']} was asked for")
    if (coding := head.get("Content-Encoding", "identity").strip().lower()) not in {"identity", "gzip", "x-gzip", ""}:
        raise FetchError(shown, f"sent its body in the encoding {coding!r}, which was not asked for")
    size = 0
    announced = head.get("Content-Length", "")
    if announced.isdigit() and int(announced) > wanted.max_bytes:
        raise TooLarge(shown, f"announces {int(announced):,} bytes, more than the limit of {wanted.max_bytes:,}")
    # read1 returns what has come; read waits for a full piece: where a source drips, for hours, and no clock is read.
    while piece := response.read1(_PIECE):
        size += len(piece)
        if size > wanted.max_bytes:
            raise TooLarge(shown, f"sends more than the limit of {wanted.max_bytes:,} bytes")
        into.write(piece)
        reached("fetch.middle")
        _left(wanted, ends)
    if not size:
        raise FetchError(shown, "sent an empty body")
    return answer


def _explain(error: http.HTTPError) -> Never:
    """Turn what urllib3 raised into words; its own messages name objects and addresses."""
    match error:
        case http.ProtocolError(args=[_, http.IncompleteRead(partial=int() as partial, expected=int() as missing)]):
            reason = f"the body ended after {partial:,} of {partial + missing:,} bytes"
        case http.SSLError():
            reason = f"TLS failed: {error}"
        case http.NameResolutionError():
            reason = "the name of the host cannot be resolved"
        case http.NewConnectionError() | http.ProxyError():  # the former is a ConnectTimeoutError too
            reason = f"cannot connect: {error.__cause__ or error}"
        case http.ConnectTimeoutError():
            reason = "no connection in time"
        case http.ReadTimeoutError():
            reason = "nothing more came in time"
        case _:
            reason = f"the connection broke: {error}"
    raise _Setback(reason) from None


def _retry_after(retries: Retry, response: urllib3.BaseHTTPResponse) -> float | None:
    try:
        return retries.get_retry_after(response)
    except http.InvalidHeader:
        return None


def _left(wanted: Wanted, ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise FetchError(redact(wanted.url), f"was not done after {wanted.seconds:g} s")
    return left


def _silence(wanted: Wanted, ends: float) -> float:
    return min(SILENCE_SECONDS, _left(wanted, ends))


def _sleep(seconds: float) -> None:
    """Wait in short pieces: an interrupt (lease lost, shutdown) reaches a thread only between two of them."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


def _pool(url: str) -> urllib3.PoolManager:
    """Connections to the address, direct or through the proxy that the environment names in the usual variables."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if not proxy or proxy_bypass(address.netloc):
        return urllib3.PoolManager()
    plain, credentials = without_user(urlsplit(proxy if "//" in proxy else f"http://{proxy}"))
    name = "proxy-authorization"
    return urllib3.ProxyManager(
        plain.geturl(), proxy_headers={name: credentials["authorization"]} if credentials else None
    )
