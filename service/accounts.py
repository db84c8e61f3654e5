"""Accounts: who may ask for a token. Passwords are kept as argon2id hashes only."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from collectkit.database import ledger_db
from collectkit.errors import CollectkitError
from collectkit.models import Account

SCOPES: Final = frozenset({"read", "operate"})
LONGEST_NAME = 150
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1024

# RFC 9106, the profile for little memory: 64 MiB and about 0.1 s each, so callers bound how many run at once.
_HASHER = PasswordHasher()

_ADD = """
INSERT INTO collectkit.account (name, password, groups, scopes) VALUES (%(name)s, %(password)s, %(groups)s, %(scopes)s)
ON CONFLICT (name) DO NOTHING RETURNING name
"""
_FIND = "SELECT name, password, groups, scopes FROM collectkit.account WHERE name = %(name)s"

# Only the hash that was verified is replaced: a password that was changed meanwhile stands.
_REHASH = "UPDATE collectkit.account SET password = %(new)s WHERE name = %(name)s AND password = %(old)s"


class AccountTaken(CollectkitError):
    """An account of that name exists.

    Arguments:
        name: the name that was asked for.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"an account called {name!r} exists already: nothing was changed, choose another name")


class AccountRefused(CollectkitError):
    """An account cannot be as it was asked for: its name, password, groups or scopes."""


def add(name: str, password: str, *, groups: Iterable[str] = (), scopes: Iterable[str] = ("read",)) -> Account:
    """Store a new account and return it.

    Arguments:
        name: 1 to 150 printable characters, no blank at either end; case counts.
        password: 8 to 1,024 characters, any.
        groups: names that its tokens carry.
        scopes: what it may do: ``read``, ``operate``.

    Raises:
        AccountTaken: the name is in use; that account is left as it is.
        AccountRefused: a rule above is broken.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    wanted_groups, wanted_scopes = sorted(set(groups)), sorted(set(scopes))
    fault = (
        _name_fault(name) or _password_fault(password) or _groups_fault(wanted_groups) or _scopes_fault(wanted_scopes)
    )
    if fault:
        message = f"account {name!r} refused: {fault}"
        raise AccountRefused(message)
    row = {"name": name, "password": _HASHER.hash(password), "groups": wanted_groups, "scopes": wanted_scopes}
    if not ledger_db.run(_ADD, row):
        raise AccountTaken(name)
    return Account(**row)


def is_possible(name: str, password: str) -> bool:
    """Tell whether an account might have this name and password; if not, asking for it is no work and no guess."""
    return not _name_fault(name) and not _password_fault(password)


def find(name: str) -> Account | None:
    """Return the account of that name, None if there is none."""
    if _name_fault(name):
        return None
    rows = ledger_db.read(_FIND, {"name": name})
    return Account(**dict(zip(("name", "password", "groups", "scopes"), rows[0], strict=True))) if rows else None


def verify(name: str, password: str) -> Account | None:
    """Return the account if the password is its own, None if not or if there is no such account.

    Both take the same time, so that it does not tell which names exist. A hash of older parameters is replaced.
    """
    if not is_possible(name, password):
        return None
    account = find(name)
    if account is None:
        # As much work as a comparison would be.
        _HASHER.hash(password)
        return None
    try:
        _HASHER.verify(account.password, password)
    except (VerificationError, InvalidHashError):
        return None
    if _HASHER.check_needs_rehash(account.password):
        old, account.password = account.password, _HASHER.hash(password)
        ledger_db.run(_REHASH, {"name": name, "old": old, "new": account.password})
    return account


def _name_fault(name: str) -> str | None:
    if not 0 < len(name) <= LONGEST_NAME or name != name.strip() or not _is_printable(name):
        return f"a name has 1 to {LONGEST_NAME} printable characters and no blank at either end"
    return None


def _password_fault(password: str) -> str | None:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        return f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    if any(unicodedata.category(char) == "Cs" for char in password):
        return "the password holds half of a surrogate pair, which is no character"
    return None


def _groups_fault(groups: list[str]) -> str | None:
    if any(_name_fault(group) for group in groups):
        return f"a group has 1 to {LONGEST_NAME} printable characters and no blank at either end"
    return None


def _scopes_fault(scopes: list[str]) -> str | None:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    return f"unknown scope {', '.join(unknown)}: there are {', '.join(sorted(SCOPES))}" if unknown else None


def _is_printable(text: str) -> bool:
    # Category C: controls (PostgreSQL takes no NUL), surrogates, invisible marks that make two names look alike.
    return not any(unicodedata.category(char).startswith("C") for char in text)
