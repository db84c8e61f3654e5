"""Bulk loading: rows that differ are written, rows that do not are left alone, and both are counted.

Every load goes the same way, whatever its size: the rows are copied into a temporary table, and set-based statements
bring the real one in line with it. So no row costs a statement, and none that is equal costs a write.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString, NamedTuple

import peewee
import psycopg
from psycopg import sql

from collectkit.counts import Counts
from collectkit.errors import SnapshotRefused
from collectkit.rejection import Rejected, Rejections
from collectkit.rows import Row
from collectkit.sparing import spare
from collectkit.staging import NUMBER, Stage, equal_keys, listed, refusals, stage
from collectkit.target import Key, Target, target


class _Found(NamedTuple):
    """What the table holds before a load writes to it."""

    matched: int
    live: int
    unlisted: int


class Batch:
    """The writing end of a checkpoint: loads rows inside its transaction, which commits or rolls back all of them.

    Arguments:
        connection: with the transaction open.
        collector: on whose behalf; rejected records are written down under this name.

    Attributes:
        counts: the sum over all loads so far.
    """

    def __init__(self, connection: psycopg.Connection[Any], collector: str) -> None:
        self._connection = connection
        self._collector = collector
        self._loads = 0
        self.counts = Counts()

    def upsert(
        self,
        model: type[peewee.Model],
        rows: Iterable[Row | Rejected],
        key: Key | None = None,
        max_rejected: float = 0.01,
    ) -> Counts:
        """Insert the rows that are new and update those that differ; rows that the source does not mention stay.

        Arguments:
            model: whose table is written.
            rows: mappings of field names to values, all with the keys of the first; sequences in the order of the
                model's fields without those that fill themselves and without ``gone_at``; or msgspec Structs. A
                generator is read as it comes: memory stays flat. Of several rows with one key the last counts. In the
                place of a row may stand a ``Rejected``.
            key: the field or fields that tell rows apart; the primary key if not given. It needs a unique index.
            max_rejected: the largest part of all records that may be rejected, 0 to 1. A single one is never too many,
                unless this is 0.

        Returns:
            What was done to how many rows.

        Raises:
            LoadError: a row does not fit, by number and column; or the key is none. The transaction is lost.
            TooManyRejected: more than ``max_rejected`` of the records were rejected. The transaction is lost.
        """
        return self._load(model, rows, key, None, _part("max_rejected", max_rejected))

    def replace(
        self,
        model: type[peewee.Model],
        rows: Iterable[Row | Rejected],
        key: Key | None = None,
        max_shrink: float = 0.10,
        max_rejected: float = 0.01,
    ) -> Counts:
        """Make the table hold what the rows say and no more: like ``upsert``, and rows not listed are removed.

        Removed means deleted, or, where the model has a field ``gone_at``, marked there with the time and kept; one
        that is listed again later loses the mark. A row whose new record was rejected stays as it is, if the
        ``Rejected`` says its key.

        Arguments:
            model: as in ``upsert``.
            rows: as in ``upsert``; all that the source has.
            key: as in ``upsert``.
            max_shrink: the largest part of the live rows that may go at once, 0 to 1. A cut-off download looks like a
                source that has dropped most of its rows.
            max_rejected: as in ``upsert``.

        Returns:
            What was done to how many rows.

        Raises:
            SnapshotRefused: no rows at all, or more than ``max_shrink`` of the live rows would go. Nothing was written.
            LoadError, TooManyRejected: as in ``upsert``.
        """
        return self._load(model, rows, key, _part("max_shrink", max_shrink), _part("max_rejected", max_rejected))

    def _load(
        self,
        model: type[peewee.Model],
        rows: Iterable[Row | Rejected],
        key: Key | None,
        max_shrink: float | None,
        max_rejected: float,
    ) -> Counts:
        self._loads += 1
        into = target(self._connection, model, key)
        rejections = Rejections(into.name, max_rejected)
        staged = stage(self._connection, into, self._loads, rejections.sift(rows))
        rejections.judge()
        counts = Counts(rejected=rejections.count + staged.superseded)
        if staged.rows:
            listing = max_shrink is not None
            spared = spare(self._connection, into, self._loads, rejections.keys) if listing else None
            counts += _Merge(self._connection, into, staged, spared).run(max_shrink)
        elif max_shrink is not None:
            raise SnapshotRefused(
                into.name,
                "the source gave no rows at all, which is a fault more often than the truth: look at the source; "
                "to empty the table, delete its rows inside the checkpoint",
            )
        rejections.write(self._connection, self._collector)
        self.counts += counts
        return counts


def _part(name: str, share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is a part of the rows, 0 to 1, and not {share!r}")
    return share


class _Merge:
    """The statements that bring a table in line with a stage: each is one pass over the rows, none is needed twice."""

    def __init__(
        self, connection: psycopg.Connection[Any], into: Target, staged: Stage, spared: sql.Identifier | None
    ) -> None:
        self._connection = connection
        self._target = into
        self._stage = staged
        self._spared = spared
        self._mark = into.gone_at
        self._same = equal_keys(into, "t", "s")

    def run(self, max_shrink: float | None) -> Counts:
        """Write what differs, in the order that lets a row take over a unique value which another gives up."""
        with refusals(self._target):
            found = self._look(listing=max_shrink is not None)
            removed = 0
            if max_shrink is not None:
                self._check_shrink(found, max_shrink)
                removed = self._remove() if found.unlisted else 0
            updated = self._update() if found.matched else 0
            new = self._stage.rows - found.matched
            inserted = self._insert() if new > 0 else 0
            denied = 0
            if inserted < new:
                # Others hold these keys since we looked. What they have committed a new statement sees, and corrects;
                # what it still does not see is hidden from us.
                updated += self._update()
                denied = self._unseen()
        unchanged = self._stage.rows - inserted - updated - denied
        return Counts(inserted, updated, unchanged, removed, denied=denied)

    def _look(self, *, listing: bool) -> _Found:
        row = self._run(
            """SELECT count(s.{number}), count(*) FILTER (WHERE {live}),
                      count(*) FILTER (WHERE {live} AND s.{number} IS NULL AND {not_spared})
                 FROM {table} t {join} JOIN {stage} s ON {same}""",
            live=self._live(),
            not_spared=self._not_spared(),
            # An upsert of a few rows into a large table must not read all of it.
            join=sql.SQL("LEFT" if listing else "INNER"),
        ).fetchone()
        return _Found(*row) if row else _Found(0, 0, 0)

    def _check_shrink(self, found: _Found, max_shrink: float) -> None:
        if found.unlisted and found.unlisted / found.live > max_shrink:
            raise SnapshotRefused(
                self._target.name,
                f"{found.unlisted:,} of {found.live:,} rows are no longer listed, which is more than max_shrink="
                f"{max_shrink:g} allows: look at the source; if it is right, load it once with a larger max_shrink",
            )

    def _remove(self) -> int:
        if self._mark is None:
            return self._run(
                "DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM {stage} s WHERE {same}) AND {not_spared}",
                not_spared=self._not_spared(),
            ).rowcount
        return self._run(
            """UPDATE {table} t SET {gone_at} = clock_timestamp()
                WHERE {live} AND NOT EXISTS (SELECT FROM {stage} s WHERE {same}) AND {not_spared}""",
            gone_at=sql.Identifier(self._mark.column_name),
            live=self._live(),
            not_spared=self._not_spared(),
        ).rowcount

    def _update(self) -> int:
        key = {f.name for f in self._target.key}
        columns = [f for f in self._stage.given if f.name not in key]
        assign = [sql.SQL("{0} = s.{0}").format(sql.Identifier(f.column_name)) for f in columns]
        differ = [
            sql.SQL("{} IS DISTINCT FROM {}").format(self._target.compared("t", f), self._target.compared("s", f))
            for f in columns
        ]
        # Rows that give gone_at themselves know better than we do who is back.
        if self._mark is not None and self._mark.name not in {f.name for f in columns}:
            assign.append(sql.SQL("{} = NULL").format(sql.Identifier(self._mark.column_name)))
            differ.append(sql.SQL("NOT ({})").format(self._live()))
        if not assign:
            return 0
        return self._run(
            "UPDATE {table} t SET {assign} FROM {stage} s WHERE {same} AND ({differ})",
            assign=sql.SQL(", ").join(assign),
            differ=sql.SQL(" OR ").join(differ),
        ).rowcount

    def _insert(self) -> int:
        fields = (*self._stage.given, *self._stage.defaults)
        return self._run(
            """INSERT INTO {table} ({columns}) SELECT {columns} FROM {stage} s
                WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same}) ON CONFLICT ({key}) DO NOTHING""",
            columns=listed(fields),
            key=listed(self._target.key),
        ).rowcount

    def _unseen(self) -> int:
        row = self._run(
            "SELECT count(*) FROM {stage} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same})"
        ).fetchone()
        return row[0] if row else 0

    def _live(self) -> sql.Composable:
        mark = self._mark
        return sql.SQL("true") if mark is None else sql.SQL("t.{} IS NULL").format(sql.Identifier(mark.column_name))

    def _not_spared(self) -> sql.Composable:
        if self._spared is None:
            return sql.SQL("true")
        return sql.SQL("NOT EXISTS (SELECT FROM {} p WHERE {})").format(
            self._spared, equal_keys(self._target, "p", "t")
        )

    def _run(self, statement: LiteralString, **parts: sql.Composable) -> psycopg.Cursor[tuple[Any, ...]]:
        query = sql.SQL(statement).format(
            table=self._target.table, stage=self._stage.table, same=self._same, number=NUMBER, **parts
        )
        cursor = self._connection.cursor(row_factory=psycopg.rows.tuple_row)
        # Its text holds this load's own table: it will not come again, so a prepared plan would never be used.
        return cursor.execute(query, prepare=False)
