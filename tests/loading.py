"""Loads as a checkpoint does them, for tests of what they do to a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peewee

from collectkit.counts import Counts
from collectkit.database import database, writing
from collectkit.load import Batch


@contextmanager
def checkpoint(idle_limit_ms: int = 30_000) -> Iterator[Batch]:
    with writing("a load", idle_limit_ms):
        yield Batch(database.connection(), "tests.a_collector")


def upsert(model: type[peewee.Model], rows: Any, **options: Any) -> Counts:
    with checkpoint() as batch:
        return batch.upsert(model, rows, **options)


def replace(model: type[peewee.Model], rows: Any, **options: Any) -> Counts:
    with checkpoint() as batch:
        return batch.replace(model, rows, **options)


def create(*models: type[peewee.Model]) -> None:
    with writing("a migration", 30_000):
        for model in models:
            model.create_table()


def execute(*statements: str) -> None:
    with writing("a statement", 30_000):
        for statement in statements:
            database.execute_sql(statement)


def query(statement: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = database.execute_sql(statement).fetchall()
    return found


def versions(model: type[peewee.Model], column: str) -> dict[Any, str]:
    """Each row's version: another one after every write."""
    return dict(query(f'SELECT "{column}", xmin::text FROM "{model._meta.table_name}"'))  # type: ignore[attr-defined]
