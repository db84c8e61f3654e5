"""Bulk loading: rows that differ are written, rows that do not are left alone, and both are counted.

Every load goes the same way, whatever its size: the rows are copied into a temporary table, and set-based statements
bring the real one in line with it. So no row costs a statement, and none that is equal costs a write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import peewee
import psycopg

from collectkit.access import access, check_scope
from collectkit.counts import Counts
from collectkit.crashpoints import reached
from collectkit.database import database
from collectkit.errors import SnapshotRefused
from collectkit.groups import Acl
from collectkit.merge import Merge
from collectkit.rejection import Rejected, Rejections
from collectkit.removal import remove_rows
from collectkit.rows import Row
from collectkit.sparing import spare
from collectkit.staging import stage, stage_query
from collectkit.target import Key, target
from collectkit.textrows import TextRows

Rows: TypeAlias = Iterable[Row | TextRows | Rejected] | peewee.BaseQuery


class Batch:
    """The writing end of a checkpoint: loads rows inside its transaction, which commits or rolls back all of them.

    Arguments:
        connection: with the transaction open.
        collector: on whose behalf; rejected records are written down under this name.
        stamp: the access groups of rows that have none of their own.

    Attributes:
        counts: the sum over all loads so far.
    """

    def __init__(self, connection: psycopg.Connection[Any], collector: str, stamp: Acl | None = None) -> None:
        self._connection = connection
        self._collector = collector
        self._stamp = stamp
        self._loads = 0
        self.counts = Counts()

    def upsert(
        self,
        model: type[peewee.Model],
        rows: Rows,
        key: Key | None = None,
        max_rejected: float = 0.01,
    ) -> Counts:
        """Insert the rows that are new and update those that differ; rows that the source does not mention stay.

        Arguments:
            model: whose table is written.
            rows: mappings of field names to values, all with the keys of the first; sequences in the order of the
                model's fields without those that fill themselves and without ``gone_at``; or msgspec Structs. A
                generator is read as it comes: memory stays flat. Of several rows with one key the last counts. In the
                place of a row may stand a ``Rejected``, and in that of several sequences of text a ``TextRows``. Or a
                Peewee query, whose columns are named as the fields: then the rows are made where they are needed, and
                none leaves the server.
            key: the field or fields that tell rows apart; the primary key if not given. It needs a unique index.
            max_rejected: the largest part of all records that may be rejected, 0 to 1. Unless it is 0, a few are never
                too many: a single one, and up to five if at least as many others can be read.

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
        rows: Rows,
        key: Key | None = None,
        max_shrink: float = 0.10,
        max_rejected: float = 0.01,
        *,
        within: Mapping[str, object] | None = None,
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
            max_rejected: as in ``upsert``, but here a few are a single one: these are all records that there are.
            within: the part of the table that the rows are all of, as values of its fields: ``{"ecosystem": "PyPI"}``.
                Rows of other parts are not missed, and do not weigh in ``max_shrink``.

        Returns:
            What was done to how many rows.

        Raises:
            SnapshotRefused: no rows at all, or more than ``max_shrink`` of the live rows would go. Nothing was written.
            LoadError, TooManyRejected: as in ``upsert``.
        """
        shrink, reject = _part("max_shrink", max_shrink), _part("max_rejected", max_rejected)
        return self._load(model, rows, key, shrink, reject, within=within or {})

    def remove(
        self, model: type[peewee.Model], keys: Iterable[object], key: Key | None = None, max_shrink: float = 0.10
    ) -> Counts:
        """Remove the rows with these keys, where the source says itself what it no longer has.

        Removed means deleted, or marked in ``gone_at`` and kept, as in ``replace``. A row that the access groups in
        force may not write stays.

        Arguments:
            model: as in ``upsert``.
            keys: a value each, or a sequence of values if the key has several fields. One that no row has, or that is
                marked already, is passed over.
            key: as in ``upsert``.
            max_shrink: the largest part of the live rows that may go at once, 0 to 1.

        Returns:
            How many went.

        Raises:
            SnapshotRefused: more than ``max_shrink`` of the live rows would go. Nothing was written.
        """
        self._loads += 1
        into = target(self._connection, model, key)
        check_scope(model, into)
        share = _part("max_shrink", max_shrink)
        counts = Counts(removed=remove_rows(self._connection, model, into, self._loads, keys, max_shrink=share))
        self.counts += counts
        return counts

    def _load(
        self,
        model: type[peewee.Model],
        rows: Rows,
        key: Key | None,
        max_shrink: float | None,
        max_rejected: float,
        *,
        within: Mapping[str, object] = MappingProxyType({}),
    ) -> Counts:
        self._loads += 1
        into = target(self._connection, model, key)
        check_scope(model, into)
        part = into.part("t", within)
        rejections = Rejections(into.name, max_rejected, update=max_shrink is None)
        database.follow_scope()
        if isinstance(rows, peewee.BaseQuery):
            staged = stage_query(self._connection, into, self._loads, rows)
        else:
            staged = stage(self._connection, into, self._loads, rejections.sift(rows))
        reached("load.staged", into.name)
        rejections.judge()
        counts = Counts(rejected=rejections.count)
        if staged.rows:
            listing = max_shrink is not None
            spared = spare(self._connection, into, self._loads, rejections.keys) if listing else None
            # Whatever gave the rows may have changed the scope.
            database.follow_scope()
            groups = access(model, into, staged, self._stamp)
            counts += Merge(self._connection, into, staged, spared, groups, part=part).run(max_shrink)
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
