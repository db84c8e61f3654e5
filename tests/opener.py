"""A thread that opens and ends scopes, transactions and generators as a program may, beside plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import peewee
import psycopg

from collectkit import acl_scope, set_user_acls
from collectkit.acl import scope_of
from collectkit.database import database, ledger_db, writing
from tests.counter import Counter

BROKEN = (peewee.OperationalError, peewee.InterfaceError, psycopg.OperationalError)


class Row(NamedTuple):
    """A row as it should be."""

    read: frozenset[str]
    write: frozenset[str]
    text: str = ""


Table = dict[str, Row]


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


class Opener:
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
        with suppress(*BROKEN):
            database.release()
        database.close()
        ledger_db.let_go()

    def stop(self) -> None:
        self.do(Opener.finish)
        self._thread.shutdown()

    def _enter(self, level: Level) -> None:
        level.context.__enter__()
        self._levels.append(level)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask; None if the transaction has failed or the connection was found dead."""
        try:
            return question()
        except (*BROKEN, peewee.DatabaseError):
            self._failed = self.in_transaction
            return None

    def _attempt(self, act: Callable[[], Any], *, nested: bool = False, ending: Level | None = None) -> None:
        """Open or end a transaction that may turn out to be dead."""
        try:
            act()
        except (*BROKEN, peewee.DatabaseError):
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
        except (*BROKEN, peewee.DatabaseError):
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
