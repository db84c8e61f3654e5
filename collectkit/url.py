"""The address of a source: whether it may be asked, and to whom what it is told may be told, too."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from collectkit.errors import FetchError
from collectkit.redaction import redact


def checked(first: str, url: str, from_scheme: str | None = None) -> SplitResult:
    """Return the parts of ``url`` if it may be asked; a refusal names ``first``, the one that led here.

    Raises:
        FetchError: it is not one of http or https, or a redirect that would give up https.
    """
    shown = redact(url)
    complaint = f"redirects to {shown}, which" if from_scheme else "this address"
    try:
        address = urlsplit(url)
        host = address.hostname if address.port != 0 else None
    except ValueError:
        host = None
    if not host or address.scheme not in {"http", "https"}:
        raise FetchError(redact(first), f"{complaint} is not one of http or https")
    if from_scheme == "https" and address.scheme == "http":
        raise FetchError(redact(first), f"{complaint} would give up https")
    return address


def may_know(before: SplitResult, after: SplitResult) -> bool:
    """Whether what was sent to the one may be sent to the other: it is the same, or has changed over to https."""
    ports = {"http": 80, "https": 443}
    old, new = ((each.scheme, each.port or ports[each.scheme]) for each in (before, after))
    return before.hostname == after.hostname and (old == new or (old, new) == (("http", 80), ("https", 443)))


def without_user(address: SplitResult) -> tuple[SplitResult, Mapping[str, str]]:
    """Split user and password off into the header that they stand for."""
    user, at, host = address.netloc.rpartition("@")
    if not at:
        return address, {}
    # By hand, for urllib3 writes it in Latin-1, which not every password fits.
    return address._replace(netloc=host), {"authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"}
