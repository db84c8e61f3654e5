"""Bringing the database to what the code says: our schema, collectors' tables, and their declarations in the ledger."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peewee
from playhouse.migrations import Runner

from collectkit import ledger, pooler, statements
from collectkit.actor import Collector
from collectkit.crashpoints import reached
from collectkit.database import SESSION, clock, database, ledger_db
from collectkit.discovery import Discovered
from collectkit.drift import read_declared
from collectkit.errors import CollectkitError, DatabaseUnavailable
from collectkit.guard import secure, table_faults
from collectkit.policies import protected, with_owners
from collectkit.reasons import one_line, trace
from collectkit.schedule import stale_at, tick_after
from collectkit.scoped import ScopedDatabase
from collectkit.served import forget_served, is_served, write_served

# Any number that no other program uses for an advisory lock on the same database.
_LOCK = 4_027_310_915
_TRIES = 30
# A migrate that was stopped may hold locks that all others wait for. The server ends its session after so long.
_IDLE_LIMIT_MS = 30_000
_POOLED = (
    "migrate: a pooler stands between here and PostgreSQL, and would keep the lock that migrate holds for its session: "
    "give this command a COLLECTKIT_DATABASE_URL that leads to PostgreSQL itself"
)

logger = logging.getLogger(__name__)


def migrate(discovered: Discovered) -> list[str]:
    """Bring schema, tables and declarations up to date; return what was done, one line each, nothing if all was well.

    One at a time, under an advisory lock. A statement waits two seconds for a table's lock and is then tried again, so
    that the renewal of leases never queues behind it for long.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer, or refuses.
        CollectkitError: a migration of a package fails by itself.
    """
    clock()  # a server that does not answer is said as everywhere else
    whose = "collectkit"
    db = ScopedDatabase(
        database.database,
        application_name="collectkit migrate",
        options=f"{SESSION} -c lock_timeout=2000"
        f" -c idle_in_transaction_session_timeout={_IDLE_LIMIT_MS} -c idle_session_timeout={_IDLE_LIMIT_MS}",
    )
    try:
        with db.connection_context():
            if pooler.stands_between(db.connection()):
                raise DatabaseUnavailable(_POOLED)
            db.execute_sql("SET lock_timeout = 0")
            db.execute_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
            db.execute_sql("SET lock_timeout = 2000")
            reached("migrate.locked")
            done = _patiently(lambda: _own_schema(db))
            reached("migrate.schema")
            for whose in _packages(discovered):
                done += _patiently(lambda package=whose: _tables(db, package, discovered))  # type: ignore[misc]
        whose = "collectkit"
        reached("migrate.tables")
        done += reconcile(discovered)
        done += _serve(discovered)
    except peewee.DatabaseError as error:
        words = one_line(error)
        message = f"migrate: PostgreSQL refused a step of {whose}: {words}; nothing of that step was kept, run it again"
        raise DatabaseUnavailable(message) from error
    return done


def reconcile(discovered: Discovered) -> list[str]:
    """Write declarations into the ledger where they differ, and retire what is gone from the packages searched.

    After an import error nothing is retired: a collector whose module is broken is not gone.
    """
    done = []
    stored = read_declared()
    for declaration in discovered.declarations.values():
        was, until, now = stored.get(declaration.name, (None, None, None))
        if was == declaration:
            continue
        now = now or clock()
        reached("reconcile.before", declaration.name)
        rows = ledger_db.run(
            statements.RECONCILE,
            {
                "name": declaration.name,
                "schedule": declaration.schedule,
                "tz": declaration.tz,
                "depends_on": list(declaration.depends_on),
                "after": list(declaration.after),
                "data_models": list(declaration.data_models),
                "enabled": declaration.enabled,
                "max_attempts": declaration.max_attempts,
                "fresh_for": declaration.fresh_for,
                "tick": ledger.as_text(tick_after(declaration.schedule, declaration.tz, now)),
                "stale_at": None
                if until is None
                else ledger.as_text(stale_at(declaration.schedule, declaration.tz, declaration.fresh_for, until)),
            },
        )
        reached("reconcile.answered", declaration.name)
        if rows:
            done.append(f"{'added' if rows[0][0] else 'changed'} collector {declaration.name}")
    return done + _retire(discovered, stored)


def _retire(discovered: Discovered, stored: Iterable[str]) -> list[str]:
    if discovered.import_faults:
        return []
    gone = [
        name
        for name in stored
        if name not in discovered.declarations
        and any(name.startswith(f"{package}.") for package in discovered.packages)
    ]
    reached("retire.before")
    retired = ledger_db.run(statements.RETIRE, {"names": gone}) if gone else []
    return [f"retired collector {name}" for (name,) in retired]


def _serve(discovered: Discovered) -> list[str]:
    served = {
        model: _package(each)
        for each in discovered.collectors.values()
        for model in each.declared.data_models
        if is_served(model)
    }
    unsafe = {model for model in served if table_faults(protected(with_owners([model])))}
    done = write_served(served, unsafe)
    if not discovered.import_faults:
        names = {model._meta.table_name for model in served}  # noqa: SLF001 - Peewee's documented name
        done += forget_served((*discovered.packages, *_packages(discovered)), names)
    return done


def _own_schema(db: Any) -> list[str]:
    if not db.execute_sql("SELECT 1 FROM pg_namespace WHERE nspname = 'collectkit'").fetchall():
        db.execute_sql("CREATE SCHEMA collectkit")
    applied = Runner(db, str(Path(__file__).parent / "migrations"), "migration", "collectkit").up()
    return [f"applied migration {name}" for name in applied]


def _packages(discovered: Discovered) -> list[str]:
    return sorted({_package(each) for each in discovered.collectors.values()})


def _package(collector: Collector) -> str:
    """Return the package of the module that declares it; a module on its own, as in a script, is its own."""
    module = collector.fn.__module__
    return module.rpartition(".")[0] or module


def _tables(db: Any, package: str, discovered: Discovered) -> list[str]:
    """Run the package's own migrations, or create its missing tables if it has none; then see to row security."""
    models = {
        model
        for each in discovered.collectors.values()
        if _package(each) == package
        for model in each.declared.data_models
    }
    directory = _migrations(package, discovered)
    done = _missing_tables(db, models) if directory is None else _apply(db, package, directory)
    for each in protected(models):
        with db.atomic():
            done += secure(db.cursor(), each)
    return done


def _apply(db: Any, package: str, directory: Path) -> list[str]:
    """Run the migrations that are new; one that PostgreSQL refuses may be tried again, one that fails may not."""
    try:
        applied = Runner(db, str(directory), f"migration_{package.replace('.', '_')}", "collectkit").up()
    except peewee.DatabaseError:
        raise
    except Exception as error:
        logger.error("a migration of %s failed\n%s", package, trace(error))  # noqa: TRY400 - without the rows in errors
        message = f"migrate: a migration of {package} failed: {one_line(error)}; mend it and run it again"
        raise CollectkitError(message) from error
    return [f"applied migration {name} of {package}" for name in applied]


def _migrations(package: str, discovered: Discovered) -> Path | None:
    """Return the directory ``migrations`` beside the modules that declare the package's collectors, if it has one.

    Of the modules, not of the package: one without an ``__init__.py`` has no file, and the working directory's own
    ``migrations`` may be those of another project.
    """
    modules = {each.fn.__module__ for each in discovered.collectors.values() if _package(each) == package}
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    found = {directory for file in files if file and (directory := Path(file).parent / "migrations").is_dir()}
    return next(iter(found), None)


def _missing_tables(db: Any, models: set[type[peewee.Model]]) -> list[str]:
    metas = {model: model._meta for model in models}  # noqa: SLF001 - Peewee's documented name
    missing = [model for model, meta in metas.items() if not db.table_exists(meta.table_name, schema=meta.schema)]
    # A table that is there without its indexes would be taken for whole the next time.
    with db.bind_ctx(missing, bind_refs=False, bind_backrefs=False), db.atomic():
        db.create_tables(missing)
    return [f"created table {metas[model].table_name}" for model in missing]


def _patiently(step: Callable[[], list[str]]) -> list[str]:
    """Try a step again while somebody else holds a lock that it needs."""
    for attempt in range(1, _TRIES + 1):
        try:
            return step()
        except peewee.OperationalError as error:
            if attempt == _TRIES or "lock timeout" not in str(error):
                raise
            logger.info("migrate: a table is locked, trying again (%s of %s)", attempt, _TRIES)
            time.sleep(0.5)
    raise AssertionError
