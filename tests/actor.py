"""An actor: a thread that does with scopes, transactions and connections what a program may, beside plain Python.

Whatever it reads must be what its scope allows, no more and no less; whatever it writes must change what its scope
allows, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import peewee
import psycopg
from playhouse.postgres_ext import ServerSide

from collectkit import Acl, acl_scope, set_user_acls
from collectkit.acl import scope_of
from collectkit.database import database, ledger_db, writing
from collectkit.errors import LoadError
from collectkit.load import Batch
from tests.secured import Paper

_BROKEN = (peewee.OperationalError, peewee.InterfaceError, psycopg.OperationalError)


class Row(NamedTuple):
    """A row as it should be."""

    read: frozenset[str]
    write: frozenset[str]
    text: str = ""


Table = dict[str, Row]


class Counter:
    """Counts the statements that actors send, on whatever connection."""

    def __init__(self) -> None:
        self.statements = 0
        self._counting = threading.local()

    def __enter__(self) -> Self:
        self._execute = psycopg.Cursor.execute

        def counted(cursor: Any, *arguments: Any, **options: Any) -> Any:
            if getattr(self._counting, "on", False):
                self.statements += 1
            return self._execute(cursor, *arguments, **options)

        psycopg.Cursor.execute = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        psycopg.Cursor.execute = self._execute  # type: ignore[method-assign]

    def start(self) -> None:
        """Count the calling thread from now on."""
        self._counting.on = True


@dataclass
class Level:
    """A transaction or savepoint that is open, and what it would roll back to."""

    context: AbstractContextManager[Any]
    before: Table


@dataclass
class World:
    """What all actors share: what is committed, and the counter."""

    counter: Counter
    committed: Table = field(default_factory=dict)


class Actor:
    """One thread and what it has open; each act runs in that thread.

    Arguments:
        writes: whether it may; one actor does, so that nobody waits for another's lock.
    """

    def __init__(self, world: World, *, writes: bool) -> None:
        self.world = world
        self.writes = writes
        self._thread = ThreadPoolExecutor(1, initializer=world.counter.start)
        # Transactions end in their order and scopes in theirs, but either may end before the other.
        self._levels: list[Level] = []
        self._scopes: list[frozenset[str]] = []
        self._opened: list[AbstractContextManager[None]] = []
        self._root: Any = None
        self._table: Table | None = None  # in a transaction that writes: with its own changes
        self._failed = False
        self._loads = 0
        self._generators: list[Iterator[Any]] = []

    def do(self, act: Callable[..., None], *arguments: Any) -> None:
        self._thread.submit(act, self, *arguments).result(timeout=60)

    @property
    def groups(self) -> frozenset[str]:
        return self._scopes[-1] if self._scopes else frozenset()

    @property
    def in_transaction(self) -> bool:
        return bool(self._levels)

    @property
    def table(self) -> Table:
        return self.world.committed if self._table is None else self._table

    def visible(self, under: frozenset[str]) -> dict[str, str]:
        return {name: row.text for name, row in self.table.items() if row.read & under}

    # What a program may do.

    def open_scope(self, wanted: frozenset[str]) -> None:
        context = acl_scope(wanted)
        context.__enter__()
        self._opened.append(context)
        self._scopes.append(wanted)

    def end_scope(self) -> None:
        if self._opened:
            self._scopes.pop()
            self._opened.pop().__exit__(None, None, None)

    def open_root(self, wanted: frozenset[str]) -> None:
        if self._root is None and not self._scopes:
            self._root = scope_of(wanted, root=True)
            self._root.open()
            self._scopes.append(wanted)

    def change_root(self, wanted: frozenset[str]) -> None:
        if self._root is not None:
            set_user_acls(wanted)
            self._scopes[0] = wanted

    def close_root(self) -> None:
        if self._root is not None and len(self._scopes) == 1:
            self._root.close()
            self._root = None
            self._scopes.clear()

    def open_transaction(self) -> None:
        if not self._failed:
            nested = self.in_transaction
            self._attempt(lambda: self._enter(Level(database.atomic(), dict(self.table))), nested=nested)

    def open_checkpoint(self) -> None:
        if self.writes and not self.in_transaction:
            self._enter(Level(writing("leaks", 60_000), dict(self.world.committed)))
            self._table = dict(self.world.committed)

    def end(self, *, fails: bool) -> None:
        if self._levels:
            level = self._levels.pop()
            if fails or self._failed:
                self._roll_back(level)
            else:
                self._attempt(lambda: level.context.__exit__(None, None, None), ending=level)

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

    def be_killed(self) -> None:
        if not database.is_closed() and not database.connection().closed:
            pid = database.connection().info.backend_pid
            ledger_db.run("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})

    def give_connection_back(self) -> None:
        if not self.in_transaction:
            database.close()

    def look_at_the_connection(self) -> None:
        """Between transactions the connection itself knows no group, whoever asks it."""
        if not self.in_transaction and not database.is_closed():
            with suppress(psycopg.OperationalError):
                row = database.connection().execute("SELECT current_setting('collectkit.acl', true)").fetchone()
                assert row is None or not row[0], "a connection without a transaction has groups"

    def finish(self) -> None:
        self._generators.clear()
        while self._levels:
            self.end(fails=True)
        while self._opened:
            self.end_scope()
        self.close_root()
        assert not self._scopes
        with suppress(*_BROKEN):
            database.release()
        database.close()
        ledger_db.let_go()

    def stop(self) -> None:
        self.do(Actor.finish)
        self._thread.shutdown()

    # How it is kept in step with Python.

    def _enter(self, level: Level) -> None:
        level.context.__enter__()
        self._levels.append(level)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask; None if the transaction has failed or the connection was found dead."""
        try:
            return question()
        except (*_BROKEN, peewee.DatabaseError):
            self._failed = self.in_transaction
            return None

    def _write(self, query: Callable[[], Any], *, allowed: bool = True) -> Any:
        """Change rows and return what Peewee does; None if nothing can be written now, or row security refused it."""
        if self._failed:
            return None
        try:
            return query()
        except (*_BROKEN, peewee.DatabaseError) as error:
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
        except _BROKEN:
            self._failed = True
        return None

    def _attempt(self, act: Callable[[], Any], *, nested: bool = False, ending: Level | None = None) -> None:
        """Open or end a transaction that may turn out to be dead."""
        try:
            act()
        except (*_BROKEN, peewee.DatabaseError):
            if ending is not None:
                self._restore(ending)
                self._failed = self.in_transaction
            elif nested:
                self._failed = True
        else:
            if ending is not None and not self.in_transaction:
                if self._table is not None:
                    self.world.committed = self._table
                self._table = None

    def _roll_back(self, level: Level) -> None:
        error = ValueError("rolled back")
        try:
            level.context.__exit__(ValueError, error, None)
        except ValueError:
            self._failed = False
        except (*_BROKEN, peewee.DatabaseError):
            self._failed = self.in_transaction
        else:
            self._failed = False
        self._restore(level)

    def _restore(self, level: Level) -> None:
        if self.in_transaction:
            if self._table is not None:
                self._table = level.before
        else:
            self._table, self._failed = None, False

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
