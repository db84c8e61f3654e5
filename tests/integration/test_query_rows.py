"""Rows that are a query's: made in the database, loaded as any others."""

from __future__ import annotations

import peewee
import pytest
from peewee import fn

from collectkit.counts import Counts
from collectkit.errors import LoadError, SnapshotRefused
from collectkit.models import Model
from tests.loading import create, query, replace, upsert, versions


class Score(Model):
    cve = peewee.TextField(primary_key=True)
    epss = peewee.FloatField()


class Ranked(Model):
    name = peewee.TextField(primary_key=True, column_name="cve name")
    rank = peewee.IntegerField()
    percent = peewee.DecimalField(max_digits=5, decimal_places=1, null=True)


class Marked(Model):
    name = peewee.TextField(primary_key=True)
    mark = peewee.TextField(default="none")


@pytest.fixture(autouse=True)
def tables(db):
    create(Score, Ranked, Marked)
    upsert(Score, [("a", 0.123), ("b", 0.9), ("c", 0.5)])


def ranked():
    rank = fn.rank().over(order_by=[Score.epss.desc()])
    return Score.select(Score.cve.alias("name"), rank.alias("rank"), (Score.epss * 100).alias("percent"))


def test_a_query_fills_a_table_and_writes_only_what_differs():
    first = replace(Ranked, ranked())
    before = versions(Ranked, "cve name")

    upsert(Score, [("a", 0.7), ("d", 0.1)])
    second = replace(Ranked, ranked())

    # b stays first; a and c change places, d is new.
    assert (first, second) == (Counts(inserted=3), Counts(inserted=1, updated=2, unchanged=1))
    assert versions(Ranked, "cve name")["b"] == before["b"]
    assert query('SELECT "cve name", rank FROM ranked ORDER BY rank') == [("b", 1), ("a", 2), ("c", 3), ("d", 4)]


def test_values_are_compared_as_the_column_stores_them():
    replace(Ranked, ranked())

    assert replace(Ranked, ranked()) == Counts(unchanged=3)


def test_plain_sql_is_a_query_too():
    rows = Ranked.raw("SELECT cve AS name, 7 AS rank FROM score WHERE epss > %s AND cve NOT LIKE 'x%%'", 0.4)

    assert upsert(Ranked, rows) == Counts(inserted=2)
    assert query("SELECT DISTINCT rank, percent FROM ranked") == [(7, None)]


def test_a_replace_removes_what_the_query_does_not_return():
    replace(Ranked, ranked())

    assert replace(Ranked, ranked().where(Score.cve != "a"), max_shrink=0.5) == Counts(unchanged=2, removed=1)


def test_of_rows_with_one_key_one_is_taken():
    twice = Ranked.raw("SELECT cve AS name, 1 AS rank FROM score, generate_series(1, 2)")

    assert replace(Ranked, twice) == Counts(inserted=3, rejected=3)


def test_a_query_that_returns_nothing_is_no_snapshot():
    replace(Ranked, ranked())

    with pytest.raises(SnapshotRefused, match="no rows at all"):
        replace(Ranked, ranked().where(Score.epss > 2))
    assert upsert(Ranked, ranked().where(Score.epss > 2)) == Counts()


@pytest.mark.parametrize(
    ("model", "text", "reason"),
    [
        (Ranked, "SELECT cve AS name, 1 AS rang FROM score", "'rang', which is no field"),
        (Ranked, "SELECT 1 AS rank FROM score", "no 'name', which is the key"),
        (Ranked, "SELECT cve AS name, NULL::int AS rank FROM score", "'rank': is NULL"),
        (Ranked, "SELECT cve AS name, 3000000000 AS rank FROM score", "out of range"),
        (Marked, "SELECT cve AS name FROM score", "no 'mark', whose default only Python knows"),
    ],
)
def test_a_query_whose_rows_do_not_fit_is_refused(model, text, reason):
    with pytest.raises(LoadError, match=reason):
        replace(model, model.raw(text))
