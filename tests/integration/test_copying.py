"""Rows of nothing but text go to COPY in blocks; what a block cannot carry goes value by value, and none is lost."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.postgres_ext import DateTimeTZField

from collectkit import copying
from collectkit.counts import Counts
from collectkit.errors import LoadError
from collectkit.models import Model
from tests.loading import create, execute, query, replace, upsert, versions

# What means something to COPY, more often than by chance.
texts = st.text(st.sampled_from("\t\n\r\\.Nb0é漢 "), max_size=4)


class Text(Model):
    name = peewee.TextField(primary_key=True)
    text = peewee.TextField(null=True)
    number = peewee.DecimalField(9, 3, null=True)


@pytest.fixture(autouse=True)
def tables(db):
    create(Text)


def stored():
    return dict(query("SELECT name, text FROM text"))


@pytest.mark.parametrize("size", [1, 3, 500])
def test_any_text_survives_in_blocks_of_any_size(monkeypatch, size):
    monkeypatch.setattr(copying, "_BLOCK", size)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(texts, st.none() | texts, st.just("1")), min_size=1, max_size=8))
    def run(rows):
        execute("DELETE FROM text")

        counts = upsert(Text, rows)

        expected = {name: text for name, text, _ in rows}
        assert counts == Counts(inserted=len(expected), rejected=len(rows) - len(expected))
        assert stored() == expected
        again = replace(Text, [(name, text, "1.000") for name, text in expected.items()])
        assert again == Counts(unchanged=len(expected))

    run()


@pytest.mark.parametrize("first", [range(2000), range(1999, -1, -1)], ids=["plain-first", "odd-first"])
def test_rows_that_are_not_all_text_keep_their_place_among_the_others(first):
    odd = {700: None, 900: "back\\slash", 1321: "two\nlines", 1999: "\ttab", 1500: "\\."}
    rows = [(f"{n}", odd.get(n, "plain"), 1.5 if n in odd else "1.5") for n in first]

    upsert(Text, rows)

    assert stored() == {name: text for name, text, _ in rows}


class Number(Model):
    name = peewee.TextField(primary_key=True)
    count = peewee.BigIntegerField(null=True)
    exact = peewee.DecimalField(30, 10, null=True)
    rough = peewee.DoubleField(null=True)
    day = peewee.DateField(null=True)
    moment = DateTimeTZField(null=True)
    flag = peewee.BooleanField(null=True)
    made = peewee.TextField(default="by hand")


def simple(n):
    return {
        "name": f"{n}",
        "count": -(2**62) + n if n % 3 else None,
        "exact": Decimal(f"{n}E-{n % 11}") if n % 5 else f"{n}.5",
        "rough": [0.1, 1e-300, 1e22, 7, float("inf"), None][n % 6],
        "day": date(1 + n, 2, 3) if n % 7 else "2026-11-24",
        "moment": datetime(2026, 11, 24, 1, 2, 3, n, tzinfo=timezone(timedelta(minutes=n % 800))) if n % 4 else None,
        "flag": None,
    }


def test_simple_values_are_stored_the_same_in_blocks_and_one_by_one():
    create(Number)
    rows = [simple(n) for n in range(1500)]

    upsert(Number, rows)
    # A flag is not simple.
    counts = upsert(Number, [{**row, "flag": False} if n == 0 else row for n, row in enumerate(rows)])

    assert counts == Counts(updated=1, unchanged=1499)
    assert query("SELECT count(*), count(DISTINCT made) FROM number WHERE exact IS NOT NULL") == [(1500, 1)]
    assert query("SELECT exact::text, rough::text, day::text FROM number WHERE name = '44'") == [
        ("44.0000000000", "1e+22", "0045-02-03")
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("a", "hunter2", "hunter2"), "row 1235, column 'number': invalid input syntax for type numeric"),
        (("a", "hunter2\0", "1"), "row 1235, column 'text': holds a NUL character, which PostgreSQL cannot store"),
        (("a", "hunter2\ud800", "1"), "row 1235, column 'text': holds text that is not valid Unicode"),
        ((None, "hunter2", "1"), "row 1235, column 'name': is NULL, which the column does not take"),
        (("a", "hunter2", 10**5000), "row 1235, column 'number': a value of type int does not fit a DecimalField"),
        (
            ("a", "hunter2"),
            "row 1235: does not have as many values as the model has fields: 2, not 3 (name, text, number)",
        ),
    ],
)
def test_a_misfit_in_a_block_is_named_by_its_row_and_column(row, reason):
    good = [(f"{n}", "text", "1") for n in range(2000)]

    with pytest.raises(LoadError) as caught:
        upsert(Text, [*good[:1234], row, *good[1234:]])

    assert caught.value.reason == reason


def test_a_key_that_comes_twice_among_new_rows_is_taken_once_and_old_rows_are_not_touched():
    upsert(Text, [("old", "text", "1")])
    before = versions(Text, "name")

    counts = upsert(Text, [("new", "first", "1"), ("new", "last", "1"), ("old", "text", "1")])

    assert counts == Counts(inserted=1, unchanged=1, rejected=1)
    assert stored() == {"new": "last", "old": "text"}
    assert versions(Text, "name")["old"] == before["old"]


@pytest.mark.parametrize("load", [upsert, replace])
def test_keys_that_come_twice_among_old_and_new_rows_are_each_taken_once(load):
    upsert(Text, [("old", "text", "1"), ("kept", "text", "1")])
    names = ["old", "new", "kept", "old", "new"]

    counts = load(Text, [(name, "text" if name == "kept" else f"{n}", "1") for n, name in enumerate(names)])

    assert counts == Counts(inserted=1, updated=1, unchanged=1, rejected=2)
    assert stored() == {"old": "3", "new": "4", "kept": "text"}
