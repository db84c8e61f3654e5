"""Whose unique value is in the way of a row: one that we see, or one that access groups hide from us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from collectkit.pairing import Pairing
from collectkit.staging import NUMBER, equal_keys, listed

# What is unique, as expressions over the columns, and for which rows.
_UNIQUE: Final = """
SELECT ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, true) FROM generate_series(1, i.indnkeyatts) n),
       coalesce(pg_get_expr(i.indpred, i.indrelid), 'true')
  FROM pg_index i
 WHERE i.indrelid = to_regclass({name}) AND i.indisunique
"""
# Each row that is refused as it would be, beside every other row that we see with the same unique value.
_HOLDERS: Final = """
SELECT s.{number}, h.{number}
  FROM (SELECT {number}, {key}, {unique}
          FROM (SELECT s.{number}, {coming} FROM {table} t JOIN {stage} s ON {same} WHERE {refused}) coming
         WHERE {which}) s
  JOIN (SELECT {key}, {unique} FROM {table} WHERE {which}) t ON {equal} AND NOT ({same})
  LEFT JOIN {stage} h ON {holder}
"""


def held_in_sight(pairing: Pairing, assigned: Mapping[str, sql.Composable], refused: Sequence[int]) -> list[int]:
    """Return which of these rows of the stage would be refused if there were no hidden rows.

    They collide with a row that we see; but not because that one is itself refused for a hidden row, and so does not
    give up its value.

    Arguments:
        assigned: by column, what a changed row has there.
        refused: the numbers of the rows that collide with some row.
    """
    holders: dict[int, set[int | None]] = {}
    for number, holder in _holders(pairing, assigned, refused) if refused else ():
        holders.setdefault(number, set()).add(holder)
    hidden: set[int | None] = {number for number in refused if number not in holders}
    while more := {number for number in holders if holders[number] <= hidden} - hidden:
        hidden |= more
    return [number for number in refused if number not in hidden]


def _holders(
    pairing: Pairing, assigned: Mapping[str, sql.Composable], refused: Sequence[int]
) -> list[tuple[int, int | None]]:
    target = pairing.target
    name = sql.Literal(target.table.as_string(pairing.connection))
    coming = [
        sql.SQL("{} AS {}").format(assigned.get(column, sql.Identifier("t", column)), sql.Identifier(column))
        for column in target.types
    ]
    found: list[tuple[int, int | None]] = []
    for unique, which in pairing.run(_UNIQUE, name=name).fetchall():
        # Not names that a model's column could have.
        names = [sql.Identifier(f"unique {place}") for place in range(len(unique))]
        found += pairing.run(
            _HOLDERS,
            key=listed(target.key),
            unique=sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(sql.SQL(value), called) for value, called in zip(unique, names, strict=True)
            ),
            coming=sql.SQL(", ").join(coming),
            refused=sql.SQL("s.{} = ANY ({}::bigint[])").format(NUMBER, sql.Literal(list(refused))),
            which=sql.SQL(which),
            equal=sql.SQL(" AND ").join(sql.SQL("s.{0} = t.{0}").format(called) for called in names),
            holder=equal_keys(target, "h", "t"),
        ).fetchall()
    return found
