"""A real PostgreSQL and a real Valkey from wheels, for one machine and for tests; no other package knows the wheels.

Of the wheels only the programs are used. Both servers listen on unix sockets alone, in directories of mode 0700, and
are direct children of the process that starts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from collectkit.embedded.postgres import EmbeddedPostgres
from collectkit.embedded.server import EmbeddedServer
from collectkit.embedded.valkey import EmbeddedValkey
from collectkit.errors import EmbeddedServerError

__all__ = ["EmbeddedPostgres", "EmbeddedServer", "EmbeddedValkey", "broker_url", "database_url"]


def database_url(state_dir: Path) -> str:
    """Return the URL of the database of the ``collectkit up`` that runs on this state directory.

    Where it runs only the broker, the URL leads nowhere.

    Raises:
        EmbeddedServerError: it runs none, or this user may not use them.
    """
    return _running_urls(state_dir, "database")[0]


def broker_url(state_dir: Path) -> str:
    """Return the URL of its broker; all else is as with the database."""
    return _running_urls(state_dir, "broker")[1]


def _running_urls(state_dir: Path, wanted: Literal["database", "broker"]) -> tuple[str, str]:
    postgres, valkey = EmbeddedPostgres(state_dir), EmbeddedValkey(state_dir)
    setting = f"COLLECTKIT_{wanted.upper()}_URL"
    try:
        runs = postgres.listens() or valkey.listens()
        urls = postgres.url, valkey.url
    except PermissionError:
        message = f"the servers in {state_dir} belong to another user: be that user, or set {setting}"
        raise EmbeddedServerError(message) from None
    if not runs:
        raise EmbeddedServerError(f"no {wanted}: set {setting}, or start `collectkit up`, which brings its own")
    return urls
