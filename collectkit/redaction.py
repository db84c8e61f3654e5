"""What a message may show of an address, and of what a source says: nothing that it was told in confidence.

What is harmless is listed, and all else is taken for a secret: a list of secrets would lack the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus, urlsplit

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

HIDDEN = "***"
OPEN_PARAMETERS = frozenset(
    {"lastModEndDate", "lastModStartDate", "limit", "offset", "page", "resultsPerPage", "startIndex"}
)
"""What sources page by; shown where the value is a number or a time."""

_PLAIN = re.compile(
    r"[0-9]{1,9}|[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9.]{2,9})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_LONGEST = 200


def redact(url: str) -> str:
    """Show an address without what may be secret in it: user, password, fragment, and most of its query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(an address that cannot be read)"
    if not parts.hostname:  # whatever stands before an @ may be a password all the same
        return "(an address that cannot be read)"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    query = _shown_query(parts.query)
    return f"{parts.scheme}://{host}{port}{parts.path}" + (f"?{query}" if query else "")


def _shown_query(query: str) -> str:
    return "&".join(
        pair if _is_open(pair) else f"{name}={HIDDEN}" if equals else HIDDEN
        for pair in query.split("&")
        for name, equals, _ in [pair.partition("=")]
        if pair
    )


def shown_complaint(response: BaseHTTPResponse, addresses: Iterable[str], headers: Iterable[str]) -> str:
    """Return the reason phrase of an answer, and what NVD and its like say of the reason in the header ``message``.

    Each is one line of 200 printable characters at most, without what the source was sent.

    Arguments:
        response: its head is enough.
        addresses: what was asked for, with user, password and query.
        headers: the values of those that may be secret.
    """
    sent = {*(word for value in headers for word in value.split()), *(word for url in addresses for word in _sent(url))}
    forms = {" ".join(form.split()) for word in sent for form in (word, unquote(word), unquote_plus(word))}
    secrets = sorted(filter(None, forms), key=len, reverse=True)
    phrase, message = (
        _shown_words(words or "", secrets) for words in (response.reason, response.headers.get("message"))
    )
    return f"{phrase}, saying {message!r}" if message else phrase


def _shown_words(words: str, secrets: Sequence[str]) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in words).split())
    if secrets:
        line = re.sub("|".join(map(re.escape, secrets)), HIDDEN, line, flags=re.IGNORECASE)
    return line[:_LONGEST]


def _is_open(pair: str) -> bool:
    name, _, value = pair.partition("=")
    return name in OPEN_PARAMETERS and _PLAIN.fullmatch(unquote_plus(value)) is not None


def _sent(url: str) -> Iterator[str]:
    """Yield the parts of an address that may be secret."""
    parts = urlsplit(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield from (user, password)
    for pair in parts.query.split("&"):
        if not _is_open(pair):
            name, equals, value = pair.partition("=")
            yield value if equals else name
