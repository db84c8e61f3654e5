"""Finding what would stop collectors from running, all of it at once."""

from __future__ import annotations

from pathlib import Path

from collectkit.broker import broker
from collectkit.database import connect, ledger_db
from collectkit.discovery import Discovered, discover
from collectkit.drift import drift
from collectkit.errors import CollectkitError, EmbeddedServerError, FaultsFound, SettingsError
from collectkit.guard import role_fault, table_faults
from collectkit.policies import protected, with_owners
from collectkit.settings import load_settings


def check() -> tuple[list[str], list[str]]:
    """Return the faults, one line each, and notes on what could not be looked at.

    Settings, imports, schedules, the graph of dependencies, both servers, the schema, the role and row security, and
    drift between code and ledger. Where no server's URL is set and no ``collectkit up`` runs there is nothing to look
    at, which is no fault.
    """
    from collectkit.embedded import broker_url

    try:
        settings = load_settings()
    except SettingsError as error:
        return list(error.faults), []
    discovered = discover(settings.collectors)
    faults = discovered.faults()
    notes: list[str] = []
    try:
        connect(settings)
    except EmbeddedServerError as error:
        notes.append(f"not looked at: the database ({error})")
    else:
        faults += _database_faults(discovered)
    try:
        faults += _broker_faults(settings.broker_url or broker_url(settings.state_dir))
    except EmbeddedServerError as error:
        notes.append(f"not looked at: the broker ({error})")
    return faults, notes


def _database_faults(discovered: Discovered) -> list[str]:
    try:
        if ledger_db.read("SELECT to_regclass('collectkit.migration')")[0][0] is None:
            return ["the database has no tables of collectkit yet: run `collectkit migrate`"]
        applied = {name for (name,) in ledger_db.read("SELECT name FROM collectkit.migration")}
        unsafe = role_fault()
        if unsafe is not None:
            return [str(unsafe)]
    except CollectkitError as error:
        return [str(error)]
    ours = {path.stem for path in (Path(__file__).parent / "migrations").glob("[0-9]*.py")}
    missing = [f"migration {name} is not applied: run `collectkit migrate`" for name in sorted(ours - applied)]
    return missing or [*_group_faults(discovered), *drift(discovered)]


def _group_faults(discovered: Discovered) -> list[str]:
    try:
        return table_faults(protected(with_owners(discovered.models())))
    except FaultsFound as error:
        return list(error.faults)
    except CollectkitError as error:
        return [str(error)]


def _broker_faults(url: str) -> list[str]:
    try:
        broker.connect(url)
        broker.room("collectors")
    except (CollectkitError, ValueError) as error:
        return [str(error)]
    return []
