"""What a command needs before it can do its work: settings, a database, the collectors that the code declares."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectkit import logs
from collectkit.errors import DatabaseUnavailable
from collectkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from collectkit.discovery import Discovered

Json = Annotated[bool, typer.Option("--json", help="One JSON document on one line, and nothing else.")]


def read_settings() -> Settings:
    """Read the settings, and write logs as they say."""
    settings = load_settings()
    logs.configure(settings.log_format)
    return settings


def connect() -> Settings:
    """Read the settings and connect to the database."""
    from collectkit import database

    settings = read_settings()
    database.connect(settings)
    return settings


def refuse_unsafe(models: Iterable[Any]) -> None:
    """Refuse what row security would not hold for; a database that does not answer is another matter."""
    from collectkit import guard

    with suppress(DatabaseUnavailable):
        guard.refuse_unsafe(models)


def declared(settings: Settings) -> Discovered:
    """Return the collectors that the code declares."""
    from collectkit.discovery import discover

    return discover(settings.collectors)


def tell_import_faults(discovered: Discovered) -> None:
    """Name what could not be imported, beside what was asked for."""
    for fault in discovered.import_faults:
        print(f"collectkit: {fault}", file=sys.stderr)


def caller() -> str:
    """Return the name that the audit keeps: the account at this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"
