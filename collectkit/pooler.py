"""A pooler between this process and PostgreSQL, such as PgBouncer: how it is noticed, and what it takes from a session.

In transaction mode each transaction may have another server's session: what was prepared is not there, and the options
of the connection never arrive.
"""

from __future__ import annotations

from typing import Any

import psycopg


def heed(connection: psycopg.Connection[Any]) -> None:
    """Prepare nothing on this new connection if a pooler stands between, which answers with another pid than it has."""
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None


def stands_between(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a pooler was noticed."""
    return connection.prepare_threshold is None
