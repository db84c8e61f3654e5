"""Signed tokens: an access token says for 15 minutes who calls, a refresh token gets new ones for a day."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import jwt
import msgspec

from collectkit.errors import CollectkitError
from collectkit.models import Account

T = TypeVar("T")
Kind = Literal["access", "refresh"]

LIFETIMES: Final[dict[Kind, timedelta]] = {"access": timedelta(minutes=15), "refresh": timedelta(days=1)}
# Hosts' clocks differ a little.
LEEWAY = timedelta(seconds=5)

_ALGORITHM = "HS256"
_NAME = "collectkit"  # both who issues tokens and whom they are for
_REGISTERED = ["sub", "aud", "iss", "iat", "nbf", "exp", "jti"]


class TokenRefused(CollectkitError):
    """A token is not one of ours, not of the kind that is asked for, or its time is over."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and what for.

    Attributes:
        name: the account's name.
        scopes: what the account may do: ``read``, ``operate``.
        groups: the account's groups, as it was given them.
    """

    name: str = msgspec.field(name="sub")
    scopes: frozenset[str]
    groups: frozenset[str]


class Holder(msgspec.Struct, frozen=True):
    """Whom a refresh token was issued to.

    Attributes:
        name: the account's name.
        seal: what the account looked like; ``Tokens.is_current`` compares it.
    """

    name: str = msgspec.field(name="sub")
    seal: str = msgspec.field(name="acc")


class Tokens:
    """Issues and reads tokens under one key.

    Only HS256 is read, whatever a token's header says: ``none`` and keys taken for others never come into question.

    Arguments:
        key: at least 32 bytes; every process that shall take the same tokens has the same.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def access(self, account: Account) -> str:
        """Return a token that says who calls and what for."""
        return self._issue("access", account.name, {"scopes": sorted(account.scopes), "groups": sorted(account.groups)})

    def refresh(self, account: Account) -> str:
        """Return a token that is good for new access tokens only, as long as the account keeps its password."""
        return self._issue("refresh", account.name, {"acc": self._seal(account)})

    def caller(self, access: str) -> Caller:
        """Return who calls with this access token.

        Raises:
            TokenRefused: it is no access token of ours, or its time is over.
        """
        return self._read("access", access, Caller)

    def holder(self, refresh: str) -> Holder:
        """Return whom this refresh token was issued to; ask ``is_current`` before it counts.

        Raises:
            TokenRefused: it is no refresh token of ours, or its time is over.
        """
        return self._read("refresh", refresh, Holder)

    def is_current(self, holder: Holder, account: Account) -> bool:
        """Tell whether the account is still the one the token was issued to: not made anew, its password unchanged."""
        return hmac.compare_digest(holder.seal, self._seal(account))

    def _issue(self, kind: Kind, name: str, claims: dict[str, Any]) -> str:
        now = datetime.now(UTC)
        registered = {
            "sub": name,
            "aud": _NAME,
            "iss": _NAME,
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIMES[kind],
            "jti": uuid.uuid4().hex,
            "typ": kind,
        }
        return jwt.encode(registered | claims, self._key, algorithm=_ALGORITHM)

    def _read(self, kind: Kind, token: str, shape: type[T]) -> T:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=_NAME,
                issuer=_NAME,
                leeway=LEEWAY,
                options={"require": [*_REGISTERED, "typ"], "strict_aud": True, "enforce_minimum_key_length": True},
            )
            if claims["typ"] != kind:
                message = f"the token is no {kind} token"
                raise TokenRefused(message)
            return msgspec.convert(claims, shape)
        except jwt.ExpiredSignatureError:
            message = "the token has expired"
            raise TokenRefused(message) from None
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError):
            # Which part of a forged token is wrong is nobody's business.
            message = "the token is not valid"
            raise TokenRefused(message) from None

    def _seal(self, account: Account) -> str:
        """Derive from the password's hash, salted anew with each password, what tells nothing about it."""
        stored = f"account\0{account.name}\0{account.password}"
        return hmac.new(self._key, stored.encode(), hashlib.sha256).hexdigest()[:32]
