"""Who calls: the token endpoints, and the gate that lets nobody past without the token that a resource needs."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any, Final, Protocol

import falcon
import msgspec

from collectkit.models import Account
from service import accounts
from service.bodies import read_json
from service.problems import Problem, Unauthorized
from service.throttle import Throttle
from service.tokens import TokenRefused, Tokens

logger = logging.getLogger(__name__)

# What a resource needs: nothing, a token, or a token with these scopes.
OPEN: Final = None
ANY_TOKEN: Final[frozenset[str]] = frozenset()
READ: Final = frozenset({"read"})

_HASHES_AT_ONCE = 2
_PATIENCE = 2.0


class Resource(Protocol):
    """What the gate asks of a resource: one that says nothing is an error, not an open door."""

    @property
    def needs(self) -> frozenset[str] | None:
        """The scopes that the caller's token must have; None opens the door to all."""


class Gate:
    """The middleware that asks for ``Authorization: Bearer`` before any resource that is not open.

    Who called is ``req.context.caller``.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def process_resource(self, req: falcon.Request, _resp: falcon.Response, resource: Resource, _params: Any) -> None:
        """Let the request pass, or answer 401 or 403."""
        needs = resource.needs
        if needs is None:
            return
        scheme, _, token = (req.get_header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("a token is needed: POST /auth/token gives one, send it as `Authorization: Bearer`")
        try:
            caller = self._tokens.caller(token.strip())
        except TokenRefused as error:
            raise Unauthorized(str(error), "invalid_token") from None
        if not needs <= caller.scopes:
            wanted = " ".join(sorted(needs))
            challenge = f'Bearer realm="collectkit", error="insufficient_scope", scope="{wanted}"'
            raise Problem(403, f"the account lacks the scope {wanted}", headers={"WWW-Authenticate": challenge})
        req.context.caller = caller


class Credentials(msgspec.Struct, frozen=True):
    """The body of ``POST /auth/token``."""

    username: str
    password: str


class RefreshBody(msgspec.Struct, frozen=True):
    """The body of ``POST /auth/token/refresh``."""

    refresh: str


class VerifyBody(msgspec.Struct, frozen=True):
    """The body of ``POST /auth/token/verify``."""

    token: str


class TokenResource:
    """Exchanges a name and password for an access token and a refresh token."""

    needs = OPEN

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        # To push a key out of the memory takes longer than its minute: two hashes at once do some 20 guesses a second.
        self._throttle = Throttle(limit=10, period=60, capacity=10_000)
        self._room = threading.BoundedSemaphore(_HASHES_AT_ONCE)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with both tokens; 401 if name or password is wrong, 429 after too many attempts."""
        asked = read_json(req, Credentials)
        account = self._verify(asked, req.remote_addr) if accounts.is_possible(asked.username, asked.password) else None
        if account is None:
            # Not the name: people type their password there.
            logger.warning("a token was refused to %s: wrong name or password", req.remote_addr)
            raise Unauthorized("no account has this name and password")
        resp.data = msgspec.json.encode(
            {"access": self._tokens.access(account), "refresh": self._tokens.refresh(account)}
        )

    def _verify(self, asked: Credentials, address: str) -> Account | None:
        guess = (asked.username, address)
        wait = self._throttle.wait(guess)
        if wait:
            logger.warning("too many attempts to get a token from %s", address)
            seconds = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, "too many attempts for this account from this address", headers=seconds)
        # A hash takes 64 MiB, so a flood of requests would be a flood of memory, and would keep every thread busy.
        if not self._room.acquire(timeout=_PATIENCE):
            raise Problem(503, "too many ask for tokens at once: try again", headers={"Retry-After": "1"})
        try:
            account = accounts.verify(asked.username, asked.password)
        finally:
            self._room.release()
        if account is not None:
            self._throttle.forget(guess)
        return account


class RefreshResource:
    """Exchanges a refresh token for a new access token, by what the account may do now."""

    needs = OPEN

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with an access token; 401 if the token does not hold, or the account is gone or has a new password."""
        refresh = read_json(req, RefreshBody).refresh
        try:
            holder = self._tokens.holder(refresh)
        except TokenRefused as error:
            raise Unauthorized(str(error), "invalid_token") from None
        account = accounts.find(holder.name)
        if account is None or not self._tokens.is_current(holder, account):
            raise Unauthorized("the account has changed since: ask for a token again", "invalid_token")
        resp.data = msgspec.json.encode({"access": self._tokens.access(account)})


class VerifyResource:
    """Tells whether an access token holds."""

    needs = OPEN

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer ``{}``; 401 if the token does not hold, or is no access token."""
        try:
            self._tokens.caller(read_json(req, VerifyBody).token)
        except TokenRefused as error:
            raise Unauthorized(str(error), "invalid_token") from None
        resp.data = b"{}"
