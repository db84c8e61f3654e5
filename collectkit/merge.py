"""Bringing a table in line with a stage: the statements of a load, each one pass over the rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from collectkit.access import Access
from collectkit.changes import Changes
from collectkit.counts import Counts
from collectkit.crashpoints import reached
from collectkit.errors import SnapshotRefused
from collectkit.pairing import Pairing
from collectkit.staging import Stage, drop_superseded, equal_keys, listed, refusals
from collectkit.target import Target

# Below this no plan takes long.
_MANY: Final = 1000

logger = logging.getLogger(__name__)


class _Found(NamedTuple):
    """What the table holds before a load writes to it.

    Attributes:
        matched: rows of the stage whose key is there.
        repeated: whether one of these keys comes more than once.
        live: rows of the table that may be changed and are not marked as gone.
        unlisted: those of them whose key is not in the stage.
        closed: rows of the stage whose key is there in a row that may not be changed.
    """

    matched: int = 0
    repeated: bool = False
    live: int = 0
    unlisted: int = 0
    closed: int = 0


class Merge:
    """The statements that bring a table in line with a stage: none is needed twice.

    Arguments:
        connection: with the transaction open, in which the access groups are in force.
        into: the table.
        staged: the rows of the load.
        spared: a table of keys that no snapshot removes, if there is one.
        groups: what access groups mean to the load.
        part: the condition that a row is of the part of the table that a snapshot is all of.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        into: Target,
        staged: Stage,
        spared: sql.Identifier | None,
        groups: Access,
        *,
        part: sql.Composable,
    ) -> None:
        self._connection = connection
        self._target = into
        self._stage = staged
        self._spared = spared
        self._groups = groups
        self._part = part
        self._superseded = 0
        self._mark = into.gone_at
        self._pairing = Pairing(connection, into, staged)
        self._changes = Changes(self._pairing, groups)

    def run(self, max_shrink: float | None) -> Counts:
        """Write what differs, in the order that lets a row take over a unique value which another gives up."""
        with refusals(self._target), self._joined_by_hash():
            found = self._look(listing=max_shrink is not None)
            if found.repeated:
                self._keep_the_last()
                found = self._look(listing=max_shrink is not None)
            removed = 0
            if max_shrink is not None:
                self._check_shrink(found, max_shrink)
                removed = self._remove() if found.unlisted else 0
            updated = self._changes.write() if found.matched else 0
            reached("load.middle", self._target.name)
            inserted = self._insert(all_new=not found.matched) if self._rows > found.matched else 0
            denied = self._changes.closed() if found.closed else 0
            if inserted < self._rows - found.matched:
                # Others hold these keys since we looked. What they have committed a new statement sees, and corrects;
                # what it still does not see is hidden from us.
                updated += self._changes.write()
                denied += self._unseen()
            denied += self._changes.refused
        if denied:
            # Not which: whoever may read this must not learn what is there.
            logger.warning("table %s: rows denied by access groups: %d", self._target.name, denied)
        unchanged = self._rows - inserted - updated - denied
        return Counts(inserted, updated, unchanged, removed, self._superseded, denied)

    @property
    def _rows(self) -> int:
        return self._stage.rows - self._superseded

    def _keep_the_last(self) -> None:
        quoting = not self._groups.guarded
        self._superseded += drop_superseded(self._connection, self._target, self._stage, quoting=quoting)

    @contextmanager
    def _joined_by_hash(self) -> Iterator[None]:
        """Keep the planner from loops, unless the stage is small beside the table.

        It cannot know how many rows the access groups let through, and it takes a table that was vacuumed while it was
        empty for one that stays so. A loop over what it expects to be a few rows would be one over all of them.
        """
        if self._stage.rows < _MANY:
            yield
            return
        self._pairing.run(
            "SELECT set_config('enable_nestloop', 'off', true) FROM pg_class"
            " WHERE oid = to_regclass({name}) AND reltuples <= {most}",
            name=sql.Literal(self._target.table.as_string(self._connection)),
            most=sql.Literal(self._stage.rows * 10),
        )
        try:
            yield
        except SnapshotRefused:
            self._loops_again()
            raise
        self._loops_again()

    def _loops_again(self) -> None:
        self._pairing.run("SET LOCAL enable_nestloop TO DEFAULT")

    def _look(self, *, listing: bool) -> _Found:
        row = self._pairing.run(
            """SELECT count(s.{number}), count(*) > {different}, count(*) FILTER (WHERE {live} AND {part} AND {ours}),
                      count(*) FILTER (WHERE {live} AND {part} AND {ours} AND s.{number} IS NULL AND {not_spared}),
                      count(s.{number}) FILTER (WHERE NOT {ours})
                 FROM {table} t {join} JOIN {stage} s ON {same}""",
            live=self._pairing.live,
            part=self._part,
            not_spared=self._not_spared(),
            # An upsert of a few rows into a large table must not read all of it.
            join=sql.SQL("LEFT" if listing else "INNER"),
            different=sql.SQL("(SELECT count(*) FROM {})" if listing else "count(DISTINCT ({}))").format(
                self._target.table if listing else listed(self._target.key, of="t")
            ),
            ours=self._groups.ours,
        ).fetchone()
        return _Found(*row) if row else _Found()

    def _check_shrink(self, found: _Found, max_shrink: float) -> None:
        if found.unlisted and found.unlisted / found.live > max_shrink:
            raise SnapshotRefused(
                self._target.name,
                f"{found.unlisted:,} of {found.live:,} rows no longer listed, which is more than max_shrink="
                f"{max_shrink:g} allows: look at the source; if it is right, load it once with a larger max_shrink",
            )

    def _remove(self) -> int:
        if self._mark is None:
            return self._pairing.run(
                """DELETE FROM {table} t
                    WHERE {part} AND NOT EXISTS (SELECT FROM {stage} s WHERE {same}) AND {not_spared}""",
                part=self._part,
                not_spared=self._not_spared(),
            ).rowcount
        return self._pairing.run(
            """UPDATE {table} t SET {gone_at} = clock_timestamp()
                WHERE {live} AND {part} AND NOT EXISTS (SELECT FROM {stage} s WHERE {same}) AND {not_spared}""",
            gone_at=sql.Identifier(self._mark.column_name),
            live=self._pairing.live,
            part=self._part,
            not_spared=self._not_spared(),
        ).rowcount

    def _insert(self, *, all_new: bool) -> int:
        absent = sql.SQL("NOT EXISTS (SELECT FROM {} t WHERE {})").format(
            self._target.table, equal_keys(self._target, "t", "s")
        )
        try:
            # ON CONFLICT costs as much again as the rows do. Without it, the index that it needs tells of all that may
            # be in the way: a key that comes twice, one that somebody else has inserted, one that is hidden from us.
            with self._connection.transaction():
                # An empty table is not even looked at: the planner may think that this costs nothing, and do it for
                # each row anew while the rows make it longer.
                return self._insert_those(sql.SQL("true") if all_new else absent, sql.SQL(""))
        except psycopg.errors.UniqueViolation:
            self._keep_the_last()
        # Of rows that we do not see any unique value may be in our way, not the key alone.
        key = sql.SQL("" if self._groups.guarded else "({})").format(listed(self._target.key))
        return self._insert_those(absent, sql.SQL("ON CONFLICT {} DO NOTHING").format(key))

    def _insert_those(self, which: sql.Composable, conflict: sql.Composable) -> int:
        columns = [sql.Identifier(f.column_name) for f in (*self._stage.given, *self._stage.defaults)]
        stamps = self._groups.stamps
        return self._pairing.run(
            "INSERT INTO {table} ({columns}) SELECT {values} FROM {stage} s WHERE {which} {conflict}",
            columns=sql.SQL(", ").join([*columns, *map(sql.Identifier, stamps)]),
            values=sql.SQL(", ").join([*columns, *stamps.values()]),
            which=which,
            conflict=conflict,
        ).rowcount

    def _unseen(self) -> int:
        row = self._pairing.run(
            "SELECT count(*) FROM {stage} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same})"
        ).fetchone()
        return row[0] if row else 0

    def _not_spared(self) -> sql.Composable:
        if self._spared is None:
            return sql.SQL("true")
        return sql.SQL("NOT EXISTS (SELECT FROM {} p WHERE {})").format(
            self._spared, equal_keys(self._target, "p", "t")
        )
