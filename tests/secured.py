"""A table with access groups, filled and read past everything that is tested."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import peewee
import psycopg

from collectkit import AclModel, collector, cron
from collectkit.settings import Settings

NAMESPACE = Settings().acl_namespace
GROUPS = ("red", "green", "blue", "keepers")


class Paper(AclModel):
    name = peewee.TextField(primary_key=True)
    text = peewee.TextField(default="")


def ident(group: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE + group)


class Archive:
    """The table as somebody with every group sees it, on a connection of his own."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def run(self, statement: Any, params: Any = None) -> list[tuple[Any, ...]]:
        with self._connection.transaction():
            self._connection.execute(
                "SELECT set_config('collectkit.acl', %s, true)", [",".join(str(ident(group)) for group in GROUPS)]
            )
            cursor = self._connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def put(self, name: str, read: Iterable[str], write: Iterable[str] = ("keepers",), text: str = "") -> None:
        self.run(
            "INSERT INTO paper (name, text, acl_read, acl_write) VALUES (%s, %s, %s, %s)",
            [name, text, [ident(group) for group in read], [ident(group) for group in write]],
        )

    @property
    def rows(self) -> dict[str, str]:
        return dict(self.run("SELECT name, text FROM paper"))

    @property
    def groups(self) -> dict[str, tuple[list[uuid.UUID], list[uuid.UUID]]]:
        return {name: (read, write) for name, read, write in self.run("SELECT name, acl_read, acl_write FROM paper")}


@contextmanager
def archive_of(db: Any) -> Iterator[Archive]:
    """Enrol a collector of the table, and look at it while the block runs."""

    @collector(periodic=cron("0 * * * *"), data_models=[Paper], name="tests.papers")
    def papers(_):
        pass

    db.enrol(papers)
    with closing(Archive(db.settings.database_url)) as made:
        yield made
