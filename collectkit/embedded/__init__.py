"""A real PostgreSQL and a real Valkey from wheels, for one machine and for tests; no other package knows the wheels.

Of the wheels only the programs are used. Both servers listen on unix sockets alone, in directories of mode 0700, and
are direct children of the process that starts them.
"""

from __future__ import annotations

from pathlib import Path

from collectkit.embedded.postgres import EmbeddedPostgres
from collectkit.embedded.server import EmbeddedServer
from collectkit.embedded.valkey import EmbeddedValkey
from collectkit.errors import EmbeddedServerError

__all__ = ["EmbeddedPostgres", "EmbeddedServer", "EmbeddedValkey", "running_urls"]


def running_urls(state_dir: Path) -> tuple[str, str]:
    """Return the URLs of database and broker of the ``collectkit up`` that runs on this state directory.

    Where it runs only one of the two, the other URL leads nowhere.

    Raises:
        EmbeddedServerError: it runs none, or this user may not use them.
    """
    postgres, valkey = EmbeddedPostgres(state_dir), EmbeddedValkey(state_dir)
    try:
        runs = postgres.listens() or valkey.listens()
        urls = postgres.url, valkey.url
    except PermissionError:
        message = f"the servers in {state_dir} belong to another user: be that user, or set COLLECTKIT_DATABASE_URL"
        raise EmbeddedServerError(message) from None
    if not runs:
        message = "no database: set COLLECTKIT_DATABASE_URL, or start `collectkit up`, which brings its own"
        raise EmbeddedServerError(message)
    return urls
