"""The two ways to PostgreSQL: a pool for models, read-only outside a checkpoint, and the ledger's connections.

They are apart because they fail apart: the author's transaction may be rolled back, stuck or killed while the ledger
must still be able to renew, close and claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg
from psycopg.conninfo import conninfo_to_dict

from collectkit.connections import LedgerDatabase, ModelDatabase
from collectkit.errors import NotConnected, SettingsError
from collectkit.settings import Settings, load_settings

# A peer that vanished without a word (a host that lost power) is noticed in 25 s, not after the kernel's two hours.
_NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# A role called collectkit would otherwise find, and make, collectors' tables in the schema of its own name.
SESSION = "-c timezone=UTC -c search_path=public"

database = ModelDatabase(None, max_connections=None)
ledger_db = LedgerDatabase(None)
_in_force: Settings | None = None


def connect(settings: Settings | None = None) -> None:
    """Make the database known to models and ledger; connections open when they are first used.

    Call it once, at the start of a service or script. Workers and schedulers need not: ``setup()`` does it.

    Arguments:
        settings: read from the environment if not given. Without a database URL the embedded server of a running
            ``collectkit up`` is used.

    Raises:
        SettingsError: a setting cannot be used.
        EmbeddedServerError: no URL is set and no embedded server runs.
    """
    global _in_force  # noqa: PLW0603 - there is one database, and one set of settings that goes with it
    settings = settings or load_settings()
    url = settings.database_url
    if url is None:
        from collectkit.embedded import database_url

        url = database_url(settings.state_dir)
    url = url.replace("postgres://", "postgresql://", 1)
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What it says may quote the password, and so would a traceback.
        fault = "COLLECTKIT_DATABASE_URL: the value cannot be used: see that what is behind its ? is encoded and known"
        raise SettingsError([fault]) from None
    _in_force = settings
    if database.database == url:
        return
    # None means as many as there are threads: Peewee gives a thread one connection, so the threads are the limit.
    database.init(
        url,
        max_connections=None,
        prepare_threshold=0,
        application_name="collectkit",
        options=f"{SESSION} -c default_transaction_read_only=on",
        **_NETWORK,
    )
    ledger_db.init(
        url,
        prepare_threshold=0,
        application_name="collectkit ledger",
        options=f"{SESSION} -c lock_timeout=1000",
        **_NETWORK,
    )


def disconnect() -> None:
    """Close every connection of this thread and all idle ones, and forget the address; without one it does nothing."""
    if database.deferred:
        return
    database.close_all()
    database.init(None)
    ledger_db.let_go()
    ledger_db.init(None)


def clock() -> datetime:
    """Return the database's ``clock_timestamp()``: the only clock that the ledger knows."""
    settings_in_force()
    (now,) = ledger_db.read("SELECT clock_timestamp()")[0]
    return now  # type: ignore[no-any-return]


def settings_in_force() -> Settings:
    """Return the settings that ``connect()`` was given.

    Raises:
        NotConnected: it was not called yet.
    """
    if _in_force is None or database.database is None:
        raise NotConnected
    return _in_force


@contextmanager
def writing(application_name: str, idle_limit_ms: int) -> Iterator[datetime]:
    """Hold a read-write transaction on ``database`` open; commit at the end, roll back on any exception.

    What it sets ends with the transaction: the name by which the sweep finds and ends the backend of a stopped
    process, and the time after which the server ends an idle one itself. The database's clock comes back with it.
    This is the one place where anything enters a transaction before its rows.

    Arguments:
        application_name: the session's name in ``pg_stat_activity`` for as long as the transaction lasts.
        idle_limit_ms: ``idle_in_transaction_session_timeout``, in milliseconds.
    """
    settings_in_force()
    with database.transaction("READ COMMITTED READ WRITE"):
        cursor = database.execute_sql(
            "SELECT clock_timestamp(), set_config('application_name', %s, true),"
            " set_config('idle_in_transaction_session_timeout', %s, true)",
            (application_name, str(idle_limit_ms)),
        )
        yield cursor.fetchone()[0]
