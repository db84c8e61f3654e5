"""Rows of nothing but text go to COPY in blocks; what a block cannot carry goes value by value, and none is lost."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.postgres_ext import BinaryJSONField, DateTimeTZField

from collectkit import Rejected, TextRows, copying
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


class Document(Model):
    name = peewee.TextField(primary_key=True)
    body = BinaryJSONField()


class Letter(Model):
    name = peewee.TextField(primary_key=True)
    day = peewee.DateField(formats=["%d.%m.%Y"])


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


def test_text_rows_keep_their_place_among_sequences_and_rejected_records():
    some = TextRows("Aé\tx\t1\nB\t\t2\n".encode(), 2, 3)
    odd, bad = ("C\t", "\\N", "3"), Rejected(b"D", "is no row")

    for rows in ([some, odd, bad], [odd, some, bad], [bad, ("E", None, "5"), some, odd]):
        execute("DELETE FROM text")

        counts = upsert(Text, rows)

        expected = {"Aé": "x", "B": "", "C\t": "\\N"} | ({"E": None} if len(rows) > 3 else {})
        assert stored() == expected
        assert counts == Counts(inserted=len(expected), rejected=1)


@pytest.mark.parametrize("odd", ["plain", "\\t"])
def test_of_text_rows_and_sequences_with_one_key_the_last_counts(odd):
    text, sequence = TextRows(b"A\tx\t1\n", 1, 3), ("A", odd, "2")

    upsert(Text, [sequence, text])
    assert stored() == {"A": "x"}

    upsert(Text, [text, sequence])
    assert stored() == {"A": odd}


def test_of_text_rows_many_are_rejected_records_too_few_to_matter():
    many = TextRows(b"".join(b"%d\tx\t1\n" % n for n in range(500)), 500, 3)

    assert upsert(Text, [many, *[Rejected(b"%d" % n, "is no row") for n in range(5)]]).rejected == 5


def test_text_rows_go_value_by_value_where_a_column_does_not_take_text_as_it_is():
    create(Document, Letter)

    upsert(Document, [TextRows(b"a\t[1, 2]\nb\tnone\n", 2, 2)])
    upsert(Letter, [TextRows(b"a\t01.02.2026\n", 1, 2)])

    assert dict(query("SELECT name, body FROM document")) == {"a": "[1, 2]", "b": "none"}
    assert query("SELECT day FROM letter") == [(date(2026, 2, 1),)]


def test_text_rows_of_another_width_are_refused_by_number():
    with pytest.raises(LoadError, match="row 3: differs from the model in the number of values: 2, not 3"):
        upsert(Text, [("a", "b", "1"), ("b", "b", "1"), TextRows(b"c\td\n", 1, 2)])


def test_text_rows_after_a_mapping_are_refused_by_number():
    with pytest.raises(LoadError, match="row 2: is a list, where the first row is a mapping"):
        upsert(Text, [{"name": "a", "text": "b", "number": 1}, TextRows(b"c\td\t1\n", 1, 3)])


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
            "row 1235: differs from the model in the number of values: 2, not 3 (name, text, number)",
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
