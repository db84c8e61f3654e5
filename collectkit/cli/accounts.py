"""The commands on accounts of the service."""

from __future__ import annotations

import getpass
import sys
import warnings
from typing import Annotated

import typer

from collectkit.cli.composing import Json, connect
from collectkit.errors import CollectkitError
from collectkit.output import say


def add(
    name: str,
    groups: Annotated[str, typer.Option(help="Groups, separated by commas; may be empty.")] = "",
    scopes: Annotated[str, typer.Option(help="Scopes, separated by commas: read, operate.")] = "read",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")] = False,
    as_json: Json = False,
) -> None:
    """Add an account; the password is asked for, or read from standard input."""
    from service import accounts

    connect()
    password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask_password()
    account = accounts.add(name, password, groups=_parts(groups), scopes=_parts(scopes))
    shown = {"name": account.name, "groups": account.groups, "scopes": account.scopes}
    say(shown, as_json, f"added {account.name}, scopes {', '.join(account.scopes) or 'none'}")


def _ask_password() -> str:
    with warnings.catch_warnings(action="error", category=getpass.GetPassWarning):
        try:
            password, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
        except getpass.GetPassWarning:
            raise CollectkitError("there is no terminal to ask for a password: give it by --password-stdin") from None
    if again != password:
        raise CollectkitError("the two passwords differ: nothing was stored, try again")
    return password


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
