"""The rows that are there and differ: changed by one statement, and by halves where rows that we do not see collide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg import sql

from collectkit.access import Access
from collectkit.holders import held_in_sight
from collectkit.pairing import Pairing
from collectkit.staging import NUMBER

# Up to here a loop over an index is best, whatever the planner believes of the table.
_FEW: Final = 100


class Changes:
    """Brings the rows of a table that are in the stage too in line with it.

    Arguments:
        pairing: the table and the stage.
        groups: what access groups mean to the load.

    Attributes:
        refused: how many rows were not changed, because a hidden row holds a unique value of theirs.
    """

    def __init__(self, pairing: Pairing, groups: Access) -> None:
        self._pairing = pairing
        self._groups = groups
        self._assigned, differ = self._difference()
        self._differ = sql.SQL(" OR ").join([*differ, sql.SQL("false")])
        self.refused = 0

    def write(self) -> int:
        """Change the rows that differ, and return how many those were.

        A row whose new value a hidden row holds stays as it is, and leaves the stage. So does one whose value is not
        free because of that. No other row stays behind.

        Raises:
            psycopg.errors.UniqueViolation: a row that we see holds the value, as it would in a table without groups.
        """
        if not self._assigned:
            return 0
        if not self._groups.guarded:
            return self._write()
        try:
            with self._pairing.connection.transaction():
                return self._write()
        except psycopg.errors.UniqueViolation:
            return self._write_what_can_be()

    def closed(self) -> int:
        """Return how many rows that we see and may not change differ from the source's."""
        row = self._pairing.run(
            "SELECT count(*) FROM {table} t JOIN {stage} s ON {same} WHERE NOT {ours} AND ({differ})",
            ours=self._groups.ours,
            differ=self._differ,
        ).fetchone()
        return row[0] if row else 0

    def _write(self, those: sql.Composable = sql.SQL("true")) -> int:  # noqa: B008 - it never changes
        return self._pairing.run(
            "UPDATE {table} t SET {assign} FROM {stage} s WHERE {same} AND ({differ}) AND {those}",
            assign=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in self._assigned.items()
            ),
            differ=self._differ,
            those=those,
        ).rowcount

    def _write_what_can_be(self) -> int:
        run = self._pairing.run
        run("CREATE INDEX ON {stage} ({number})")
        loops = run("SELECT current_setting('enable_nestloop')").fetchone()
        waiting = [
            number
            for (number,) in run(
                "SELECT s.{number} FROM {table} t JOIN {stage} s ON {same} WHERE ({differ}) ORDER BY s.{number}",
                differ=self._differ,
            )
        ]
        updated = 0
        while True:
            written, left = self._write_by_halves(waiting, sql.Literal(loops and loops[0]))
            updated += written
            if len(left) in {0, len(waiting)}:
                break
            # What was written may have given up a value that one of these waits for.
            waiting = left
        if seen := held_in_sight(self._pairing, self._assigned, left):
            # All at once: they may swap values under a constraint that waits for the end of the statement.
            updated += self._write(_among(seen))
        hidden = sorted({*left} - {*seen})
        run("DELETE FROM {stage} s WHERE {those}", those=_among(hidden))
        self.refused += len(hidden)
        return updated

    def _write_by_halves(self, numbers: Sequence[int], loops: sql.Literal) -> tuple[int, list[int]]:
        """Return how many rows were changed, and the numbers of those that collide."""
        updated = 0
        left: list[int] = []
        pending = [numbers]
        while pending:
            part = pending.pop()
            self._pairing.run(
                "SELECT set_config('enable_nestloop', {loops}, true)",
                loops=sql.Literal("on") if len(part) <= _FEW else loops,
            )
            try:
                with self._pairing.connection.transaction():
                    updated += self._write(_among(part))
            except psycopg.errors.UniqueViolation:
                if len(part) == 1:
                    left += part
                else:
                    middle = len(part) // 2
                    pending += [part[middle:], part[:middle]]
        self._pairing.run("SELECT set_config('enable_nestloop', {loops}, true)", loops=loops)
        return updated, left

    def _difference(self) -> tuple[Mapping[str, sql.Composable], list[sql.Composable]]:
        """Return by column what brings a row in line with the source's, and the conditions under which it needs it."""
        target, stage = self._pairing.target, self._pairing.stage
        key = {f.name for f in target.key}
        columns = [f for f in stage.given if f.name not in key]
        assigned: dict[str, sql.Composable] = {f.column_name: sql.Identifier("s", f.column_name) for f in columns}
        differ: list[sql.Composable] = [
            sql.SQL("{} IS DISTINCT FROM {}").format(target.compared("t", f), target.compared("s", f)) for f in columns
        ]
        # Rows that give gone_at themselves know better than we do who is back.
        if target.gone_at is not None and target.gone_at.name not in {f.name for f in columns}:
            assigned[target.gone_at.column_name] = sql.SQL("NULL::timestamptz")
            differ.append(sql.SQL("NOT ({})").format(self._pairing.live))
        for column, groups in self._groups.stamps.items():
            assigned[column] = groups
            differ.append(sql.SQL("{} IS DISTINCT FROM {}").format(sql.Identifier("t", column), groups))
        return assigned, differ


def _among(numbers: Sequence[int]) -> sql.Composable:
    return sql.SQL("s.{} = ANY ({}::bigint[])").format(NUMBER, sql.Literal(list(numbers)))
