"""An actor: an opener that reads and writes, and says what each statement should have seen and done.

Whatever it reads must be what its scope allows, no more and no less; whatever it writes must change what its scope
allows, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import peewee
from playhouse.postgres_ext import ServerSide

from collectkit import Acl, acl_scope
from collectkit.database import database
from collectkit.errors import LoadError
from collectkit.load import Batch
from tests.opener import BROKEN, Opener, Row, Table
from tests.secured import Paper


class Actor(Opener):
    """What a program asks of the table, each question with its answer."""

    def read(self, how: int) -> None:
        expected = self.visible(self.groups)
        if how == 0:
            found = self._ask(lambda: {paper.name: paper.text for paper in Paper.select()})
        elif how == 1:
            found = self._ask(lambda: dict(database.execute_sql("SELECT name, text FROM paper").fetchall()))
        elif how == 2 and self.in_transaction:
            found = self._ask(lambda: {paper.name: paper.text for paper in ServerSide(Paper.select())})
        else:
            wanted = sorted(self.table)[how : how + 1]
            expected = {name: text for name, text in expected.items() if name in wanted}
            found = self._ask(lambda: {paper.name: paper.text for paper in Paper.select().where(Paper.name << wanted)})
        assert found is None or found == expected, f"under {set(self.groups)}: {found} instead of {expected}"

    def fail(self) -> None:
        with suppress(peewee.DatabaseError):
            self._ask(lambda: database.execute_sql("SELECT 1 / 0"))

    def start_generator(self, wanted: frozenset[str]) -> None:
        def rows() -> Iterator[Any]:
            with acl_scope(wanted):
                while True:
                    self._scopes.append(wanted)
                    try:
                        self.read(0)
                    finally:
                        self._scopes.pop()
                    yield

        self._generators.append(rows())

    def step_generator(self, number: int) -> None:
        if self._generators:
            next(self._generators[number % len(self._generators)], None)

    def drop_generator(self) -> None:
        if self._generators:
            self._generators.pop(0)

    def change(self, name: str, text: str, *, delete: bool) -> None:
        where = Paper.name == name
        query = Paper.delete().where(where) if delete else Paper.update(text=text).where(where)
        changed = self._write(query.execute)
        if changed is not None:
            row = self.table.get(name)
            allowed = row is not None and bool(row.read & self.groups and row.write & self.groups)
            assert changed == int(allowed), f"under {set(self.groups)}: {changed} rows changed of {row}"
            if row is not None and allowed:
                self.table.pop(name) if delete else self.table.update({name: row._replace(text=text)})

    def regroup(self, name: str, read: frozenset[str]) -> None:
        """Give a row to other readers, which one may who stays among them."""
        row = self.table.get(name)
        visible = row is not None and bool(row.read & self.groups and row.write & self.groups)
        query = Paper.update(acl_read=sorted(read)).where(Paper.name == name)
        changed = self._write(query.execute, allowed=not visible or bool(read & self.groups))
        if changed:
            assert row is not None
            assert visible
            assert read & self.groups
            self.table[name] = row._replace(read=read)

    def insert(self, name: str, read: frozenset[str], write: frozenset[str]) -> None:
        new = {"name": name, "text": "new", "acl_read": sorted(read), "acl_write": sorted(write)}
        allowed = bool(read & self.groups and write & self.groups)
        done = self._write(Paper.insert(**new).on_conflict_ignore().execute, allowed=allowed)
        if done is not None:
            assert allowed
            assert name not in self.table
            self.table[name] = Row(read, write, "new")

    def begin_to_write(self) -> None:
        while self._failed:
            self.end(fails=True)
        if not self.in_transaction:
            self.open_checkpoint()

    def load(self, names: list[str], text: str, *, replaces: bool) -> None:
        if not self.writes or self._table is None or self._failed:
            return
        own = Acl([min(self.groups, default="red")], [max(self.groups, default="red")])
        rows = [{"name": name, "text": text} for name in dict.fromkeys(names)]
        expected, denied = self._loaded({row["name"] for row in rows}, text, own, replaces=replaces)
        counts = self._batch(
            own,
            lambda batch: batch.replace(Paper, rows, max_shrink=1) if replaces else batch.upsert(Paper, rows),
        )
        if counts is not None:
            assert counts.denied == denied
            self._table = expected

    def copy(self, text: str) -> None:
        """Load the rows that a query sees, which are those of the scope."""
        names = set(self.visible(self.groups))
        if self._table is not None and not self._failed and names:
            own = Acl([min(self.groups)], [max(self.groups)])
            expected, denied = self._loaded(names, text, own, replaces=False)
            counts = self._batch(
                own, lambda batch: batch.upsert(Paper, Paper.select(Paper.name, peewee.Value(text).alias("text")))
            )
            if counts is not None:
                assert counts.denied == denied
                self._table = expected

    def remove(self, names: list[str]) -> None:
        if self._table is not None and not self._failed and self.groups:
            allowed = [name for name, row in self.table.items() if row.read & self.groups and row.write & self.groups]
            counts = self._batch(None, lambda batch: batch.remove(Paper, names, max_shrink=1))
            if counts is not None:
                gone = set(names) & set(allowed)
                assert counts.removed == len(gone)
                self._table = {name: row for name, row in self.table.items() if name not in gone}

    def _write(self, query: Callable[[], Any], *, allowed: bool = True) -> Any:
        """Change rows and return what Peewee does; None if nothing can be written now, or row security refused it."""
        if self._failed:
            return None
        try:
            return query()
        except (*BROKEN, peewee.DatabaseError) as error:
            self._failed = self.in_transaction
            wrongly = allowed and "row-level security" in str(error)
        assert not wrongly, f"under {set(self.groups)}: refused"
        return None

    def _batch(self, own: Acl | None, load: Callable[[Batch], Any]) -> Any:
        """Load, and return the counts; None if the connection is dead, or there is no group to load under."""
        batch = Batch(database.connection(), "tests.leaks", own)
        batch._loads = self._loads = self._loads + 1  # a checkpoint has one batch, and one level of groups
        try:
            return load(batch)
        except LoadError:
            assert not self.groups
        except BROKEN:
            self._failed = True
        return None

    def _loaded(self, names: set[str], text: str, own: Acl, *, replaces: bool) -> tuple[Table, int]:
        mine = Row(frozenset(own.read), frozenset(own.write), text)
        after: Table = {}
        denied = 0
        for name, row in self.table.items():
            seen, ours = bool(row.read & self.groups), bool(row.write & self.groups)
            if name not in names:
                if not (replaces and seen and ours):
                    after[name] = row
            elif seen and ours:
                after[name] = mine
            else:
                denied += row != mine or not seen
                after[name] = row
        after |= {name: mine for name in names if name not in self.table}
        return after, denied
