"""Rows of collectors' tables, for whoever may see them: PostgreSQL decides which, by the groups of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import falcon
import msgspec
import peewee

from collectkit.database import database
from collectkit.policies import quoted
from collectkit.served import Served, find_served
from service.auth import READ
from service.problems import Problem
from service.resources import API, whole_number

_PAGE = 50
_LONGEST_PAGE = 1000
_MOST_VALUES = 100
_PAGING = frozenset({"limit", "after"})

_encode = msgspec.json.Encoder(decimal_format="number").encode


class DataResource:
    """Shows rows of a table that its model opens to the service, in the order of their key, page by page."""

    needs = READ

    def on_get(self, req: falcon.Request, resp: falcon.Response, table: str) -> None:
        """Answer with the rows that the caller's groups may read, and the address of the next page, null on the last.

        Filtered by the columns of the key, ``?cve_id=CVE-2021-44228``, several times for several values.
        """
        served = find_served(table)
        if served is None:
            raise Problem(404, f"no table is served under the name {table!r}")
        if not served.sealed:
            raise Problem(503, f"the access groups of {table!r} do not hold: `collectkit check` says what mends them")
        limit = min(whole_number(req, "limit", 2**31) or _PAGE, _LONGEST_PAGE)
        wanted = _filters(req, served)
        try:
            rows = _read(served, wanted, _after(req, served), limit + 1)
        except peewee.DataError:
            raise Problem(400, f"a value does not fit its column: the key is {', '.join(served.key)}") from None
        is_last, rows = len(rows) <= limit, rows[:limit]
        following = None if is_last else _next(table, wanted, limit, rows[-1][len(served.columns) :])
        shown = [dict(zip(served.columns, row, strict=False)) for row in rows]
        resp.data = _encode({"rows": shown, "next": following})


def _filters(req: falcon.Request, served: Served) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for name in req.params:
        if name in _PAGING:
            continue
        if name not in served.key:
            raise Problem(400, f"?{name}= is no filter: there are {', '.join(served.key)}, limit and after")
        wanted[name] = req.get_param_as_list(name) or []
    if sum(map(len, wanted.values())) > _MOST_VALUES:
        raise Problem(400, f"more than {_MOST_VALUES} values are asked for at once")
    return wanted


def _after(req: falcon.Request, served: Served) -> list[str] | None:
    text = req.get_param("after")
    if text is None:
        return None
    try:
        values = msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        values = []
    if len(values) != len(served.key):
        raise Problem(400, "?after= should be as the page before gave it in `next`")
    return values


def _read(
    served: Served, wanted: dict[str, list[str]], after: Sequence[str] | None, limit: int
) -> list[tuple[Any, ...]]:
    key = ", ".join(map(_column, served.key))
    shown = ", ".join([*map(_column, served.columns), *(f"{_column(name)}::text" for name in served.key)])
    conditions = [f"{_column(name)} IN ({', '.join(['%s'] * len(values))})" for name, values in wanted.items()]
    values = [value for each in wanted.values() for value in each]
    if after is not None:
        conditions.append(f"({key}) > ({', '.join(['%s'] * len(after))})")
        values += after
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    table = quoted(served.schema, served.name).replace("%", "%%")
    statement = f"SELECT {shown} FROM {table} t {where} ORDER BY {key} LIMIT %s"  # noqa: S608 - the model's names
    rows: list[tuple[Any, ...]] = database.execute_sql(statement, [*values, limit]).fetchall()
    return rows


def _column(name: str) -> str:
    return f"t.{quoted(name)}".replace("%", "%%")


def _next(table: str, wanted: dict[str, list[str]], limit: int, last: Sequence[str]) -> str:
    asked: dict[str, Any] = {**wanted, "limit": limit, "after": msgspec.json.encode(list(last)).decode()}
    return f"{API}/data/{falcon.uri.encode_value(table)}{falcon.to_query_str(asked, comma_delimited_lists=False)}"
