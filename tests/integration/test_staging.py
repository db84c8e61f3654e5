from __future__ import annotations

import enum
import json
import traceback
import uuid
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import msgspec
import peewee
import pytest
from playhouse.postgres_ext import ArrayField, BinaryJSONField, DateTimeTZField, IntervalField
from playhouse.postgres_ext import JSONField as TextualJSONField

from collectkit.counts import Counts
from collectkit.errors import LoadError
from collectkit.models import Model
from tests.loading import checkpoint, create, execute, query, replace, upsert

NUMBERS = iter(range(1000))


class Severity(enum.Enum):
    HIGH = "high"
    LOW = "low"


class Level(enum.IntEnum):
    ONE = 1


class Everything(Model):
    name = peewee.TextField(primary_key=True)
    text = peewee.TextField(null=True)
    short = peewee.CharField(5, null=True)
    count = peewee.IntegerField(null=True)
    big = peewee.BigIntegerField(null=True)
    exact = peewee.DecimalField(30, 10, null=True)
    rough = peewee.DoubleField(null=True)
    flag = peewee.BooleanField(null=True)
    ident = peewee.UUIDField(null=True)
    raw = peewee.BlobField(null=True)
    day = peewee.DateField(null=True)
    hour = peewee.TimeField(null=True)
    moment = DateTimeTZField(null=True)
    length = IntervalField(null=True)
    tags = ArrayField(peewee.TextField, null=True)
    grid = ArrayField(peewee.IntegerField, null=True, dimensions=2, index=False)
    doc = BinaryJSONField(null=True)
    plain = peewee.JSONField(null=True)
    textual = TextualJSONField(null=True)
    stamp = peewee.TimestampField(null=True, default=None)


class Keyed(Model):
    """A key of its own, that the source does not know, beside the source's."""

    name = peewee.TextField(unique=True)
    made = peewee.TextField(default=lambda: f"made {next(NUMBERS)}")
    state = peewee.TextField(default="new")
    at = DateTimeTZField(constraints=[peewee.SQL("DEFAULT '2026-01-01T00:00:00Z'")])
    note = peewee.TextField(null=True)


class Owned(Model):
    name = peewee.TextField(primary_key=True)
    owner = peewee.ForeignKeyField(Everything, null=True)


class Price(Model):
    """A model whose key is not the first of its fields."""

    amount = peewee.DecimalField(4, 2)
    name = peewee.TextField(primary_key=True)


class Indexed(Model):
    code = peewee.TextField(primary_key=True)
    name = peewee.TextField(index=True)


class Shouted(peewee.TextField):  # type: ignore[type-arg]
    def db_value(self, value):
        return value.upper()


class Own(Model):
    name = peewee.TextField(primary_key=True)
    word = Shouted()
    day = peewee.DateField(formats=["%d/%m/%Y"])
    price = peewee.DecimalField(6, 1, auto_round=True)
    words = peewee.JSONField(dumps=lambda value: json.dumps(sorted(value)))


class Named(msgspec.Struct):
    name: str
    text: str | None = None


VALUES = [
    ("text", "tab\t newline\n return\r backslash \\ \\. \\N \\t quote ' \" é 漢 🙂 \x01", None),
    ("text", "", None),
    ("text", Severity.HIGH, "high"),
    ("text", 17, "17"),
    ("text", b"bytes", "bytes"),
    ("short", "12345", None),
    ("count", 5, None),
    ("count", "5", 5),
    ("count", 5.7, 5),
    ("count", True, 1),
    ("count", Level.ONE, 1),
    ("big", 2**62, None),
    ("exact", Decimal("12345678901234567890.0123456789"), None),
    ("exact", Decimal(0), None),
    ("exact", "0.5", Decimal("0.5")),
    ("exact", 0.1, Decimal("0.1")),
    ("rough", 0.1, None),
    ("rough", float("inf"), None),
    ("flag", False, None),
    ("flag", "false", False),
    ("flag", 1, True),
    ("ident", uuid.UUID(int=7), None),
    ("ident", "00000000-0000-0000-0000-000000000007", uuid.UUID(int=7)),
    ("ident", uuid.UUID(int=7).bytes, uuid.UUID(int=7)),
    ("raw", b"\x00\\\t\n\xff", None),
    ("raw", bytearray(b"\x00"), b"\x00"),
    ("raw", "é", "é".encode()),
    ("day", date(2026, 11, 23), None),
    ("day", datetime(2026, 11, 23, 23, 59, tzinfo=UTC), date(2026, 11, 23)),
    ("day", "2026-11-23", date(2026, 11, 23)),
    ("hour", time(23, 59, 1, 5), None),
    ("moment", datetime(2026, 11, 23, 1, 2, 3, 4, tzinfo=UTC), None),
    ("moment", datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5))), datetime(2025, 12, 31, 19, tzinfo=UTC)),
    ("moment", "2026-11-23T01:02:03Z", datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
    ("length", timedelta(days=40, seconds=1), None),
    ("tags", [], None),
    ("tags", ["a,b", '"', "\\", "NULL", "null", None, "", "{}", "\t\n"], None),
    ("tags", ("a", "b"), ["a", "b"]),
    ("tags", set("hgfedcba"), list("abcdefgh")),
    ("tags", [Severity.LOW], ["low"]),
    ("grid", [[1, 2], [3, 4]], None),
    ("doc", {"a": [1, 2.5, None, True, 'x\ty\\ " é'], "b": {}}, None),
    ("doc", [], None),
    ("doc", "text", None),
    ("doc", 2**80, None),
    ("doc", {"price": Decimal("0.10"), "how": Severity.LOW}, {"price": 0.1, "how": "low"}),
    ("doc", {None: 1}, {"null": 1}),
    ("doc", msgspec.Raw(b'{"as": "it came"}'), {"as": "it came"}),
    ("doc", Named("a struct"), {"name": "a struct", "text": None}),
    ("plain", {"a": [1]}, None),
    ("textual", {"a": [1]}, None),
    ("stamp", datetime(2026, 11, 23), None),  # noqa: DTZ001 - Peewee keeps it as an integer of local time
]


@pytest.fixture(autouse=True)
def tables(db):
    create(Everything, Keyed, Owned, Price, Indexed, Own)


@pytest.mark.parametrize(("column", "given", "kept"), VALUES)
def test_a_value_survives_and_is_then_unchanged(column, given, kept):
    upsert(Everything, [{"name": "a", column: None}, {"name": "b", column: None}])

    first = upsert(Everything, [{"name": "a", column: given}, {"name": "c", column: given}])
    again = upsert(Everything, [{"name": "a", column: given}, {"name": "c", column: given}])

    stored = [getattr(row, column) for row in Everything.select().where(Everything.name != "b")]
    assert [bytes(value) if isinstance(value, memoryview) else value for value in stored] == [kept or given] * 2 or (
        stored == [kept] * 2
    )
    assert first == Counts(inserted=1, updated=1)
    assert again == Counts(unchanged=2)


@pytest.mark.parametrize("column", ["doc", "plain", "textual"])
def test_json_is_compared_by_value(column):
    upsert(Everything, [{"name": "a", column: {"a": 1, "b": [1.0]}}])

    same = upsert(Everything, [{"name": "a", column: msgspec.Raw(b'{"b" : [1.0], "a":1}')}])
    other = upsert(Everything, [{"name": "a", column: {"a": 1, "b": [2.0]}}])

    assert same == Counts(unchanged=1)
    assert other == Counts(updated=1)


def test_rows_may_be_mappings_structs_or_sequences():
    upsert(Everything, [OrderedDict(name="a", text="1"), {"text": "2", "name": "b"}])
    upsert(Everything, [Named("c", "3")])
    upsert(Price, [("1.5", "a"), ["2.5", "b"], namedtuple("Row", "amount name")("3.5", "c")])  # noqa: PYI024

    assert query("SELECT name, text FROM everything ORDER BY 1") == [("a", "1"), ("b", "2"), ("c", "3")]
    assert query("SELECT name, amount::text FROM price ORDER BY 1") == [("a", "1.50"), ("b", "2.50"), ("c", "3.50")]


def test_a_row_may_be_a_key_and_nothing_else():
    upsert(Everything, [{"name": "a"}])

    assert upsert(Everything, [{"name": "a"}, {"name": "b"}]) == Counts(inserted=1, unchanged=1)


def test_fields_not_given_take_their_default_in_new_rows_and_stay_in_old_ones():
    upsert(Keyed, [{"name": "a", "note": "x"}], key="name")
    execute("UPDATE keyed SET made = 'mine', state = 'old', at = '2020-01-01T00:00:00Z'")

    counts = upsert(
        Keyed, [{"name": "a", "note": "y"}, {"name": "b", "note": None}, {"name": "c", "note": None}], key=Keyed.name
    )

    rows = {row.name: row for row in Keyed.select()}
    assert counts == Counts(inserted=2, updated=1)
    assert (rows["a"].made, rows["a"].state, rows["a"].at.year, rows["a"].note) == ("mine", "old", 2020, "y")
    assert (rows["b"].state, rows["b"].at.year) == ("new", 2026)
    assert rows["b"].made.startswith("made ")
    assert rows["b"].made != rows["c"].made


def test_a_foreign_key_takes_a_row_or_its_key():
    upsert(Everything, [{"name": "a"}])

    upsert(Owned, [("x", "a"), ("y", Everything(name="a")), ("z", None)])

    assert query("SELECT name, owner_id FROM owned ORDER BY 1") == [("x", "a"), ("y", "a"), ("z", None)]


def test_a_field_that_converts_in_its_own_way_is_asked():
    upsert(Own, [("a", "word", "02/01/2026", "0.25", ["b", "a"])])

    assert query("SELECT word, day, price, words FROM own") == [("WORD", date(2026, 1, 2), Decimal("0.2"), ["a", "b"])]


@pytest.mark.parametrize("key", [["name"], (Price.name,), "name", Price.name])
def test_a_key_may_be_named_in_any_way(key):
    upsert(Price, [("1.5", "a")])

    assert upsert(Price, [("2.5", "a")], key=key) == Counts(updated=1)


BAD_LOADS = [
    (Keyed, [{"name": "a"}], {}, "Keyed has no key of the source's own: say key=, the field that is it"),
    (Price, [("1.5", "a")], {"key": "nmae"}, "key=['nmae'] is no field of Price (amount, name)"),
    (Price, [("1.5", "a")], {"key": []}, "key=[] is no field of Price (amount, name)"),
    (Price, [("1.5", "a")], {"key": "amount"}, "the key (amount) has no unique index: give it one in a migration"),
    (Indexed, [("a", "b")], {"key": "name"}, "the key (name) has no unique index: give it one in a migration"),
    (Price, [{"amount": 1}], {}, "the rows have no 'name', which is the key"),
    (
        Price,
        [{"name": "a", "prize": 1}],
        {},
        "row 1: has the key 'prize', which is no field of the model (amount, name)",
    ),
    (Price, ["a"], {}, "row 1: is a str: give mappings, sequences or msgspec Structs"),
    (Price, {"amount": 1, "name": "a"}, {}, "row 1: is a str: give mappings, sequences or msgspec Structs"),
    (Price, [None], {}, "row 1: is a NoneType: give mappings, sequences or msgspec Structs"),
    (
        Price,
        [{"name": "a", "amount": 1}, {"name": "a", "amount": 1, "other": 1}],
        {},
        "row 2: has the key 'other', which the first row has not",
    ),
    (Price, [{"name": "a", "amount": 1}, {"name": "a"}], {}, "row 2: has no key 'amount', which the first row has"),
    (
        Price,
        [{"name": "a", "amount": 1}, {"name": "a", "prize": 1}],
        {},
        "row 2: has the key 'prize', which the first row has not",
    ),
    (Price, [{"name": "a", "amount": 1}, (1, "a")], {}, "row 2: is a tuple, where the first row is a mapping"),
    (Price, [(1, "a"), {"name": "a", "amount": 1}], {}, "row 2: is a dict, where the first row is a sequence"),
    (Price, [(1, "a"), "1a"], {}, "row 2: is a str, where the first row is a sequence"),
    (
        Price,
        [(1, "a"), (1,)],
        {},
        "row 2: differs from the model in the number of values: 1, not 2 (amount, name)",
    ),
    (Everything, [Named("a"), {"name": "a"}], {}, "row 2: is a dict, where the first row is a Named"),
    (Price, [(1, "a"), (1, None)], {}, "row 2, column 'name': is NULL, which the column does not take"),
    (Price, [(1, "a"), (None, "b")], {}, "row 2, column 'amount': is NULL, which the column does not take"),
]


@pytest.mark.parametrize(("model", "rows", "options", "reason"), BAD_LOADS)
def test_rows_that_cannot_be_loaded_are_refused_with_the_reason(model, rows, options, reason):
    with pytest.raises(LoadError) as caught:
        upsert(model, rows, **options)

    assert caught.value.reason == reason
    assert caught.value.table == model._meta.table_name


BAD_VALUES = [
    ("exact", "hunter2", "invalid input syntax for type numeric"),
    ("exact", 'hunter2" and "more', "invalid input syntax for type numeric"),
    ("exact", "", "invalid input syntax for type numeric"),
    ("count", "hunter2 " * 1000, "invalid input syntax for type integer"),
    ("count", 2**40, "is out of range for type integer"),
    ("short", "hunter2", "value too long for type character varying(5)"),
    ("moment", "hunter2", "invalid input syntax for type timestamp with time zone"),
    ("flag", "hunter2", "invalid input syntax for type boolean"),
    ("text", "hunter2\0", "holds a NUL character, which PostgreSQL cannot store"),
    ("tags", ["hunter2", "hunter2\0"], "holds a NUL character, which PostgreSQL cannot store"),
    ("doc", {"a": "hunter2\0"}, "holds a NUL character, which PostgreSQL cannot store"),
    ("text", "hunter2\ud800", "holds text that is not valid Unicode"),
    ("doc", {"hunter2": object()}, "a value of type dict does not fit a BinaryJSONField"),
    ("tags", "hunter2", "a value of type str does not fit a ArrayField"),
    ("ident", {"hunter2": 1}, "a value of type dict does not fit a UUIDField"),
    ("length", {"hunter2": 1}, "a value of type dict does not fit a IntervalField"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_VALUES)
def test_a_value_that_does_not_fit_is_named_by_row_and_column_and_never_shown(column, value, reason):
    good = [{"name": f"line\n{n}", column: None} for n in range(3)]
    rows = [*good, {"name": "hunter2", column: value}, *good]

    with pytest.raises(LoadError) as caught:
        upsert(Everything, rows)

    message = str(caught.value)
    assert message.startswith(f"table 'everything': rows refused, the old rows stand: row 4, column '{column}': ")
    assert message.endswith(reason)
    assert len(message) < 300
    assert "\n" not in message
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_table_that_lags_behind_its_model_is_told_what_to_do():
    execute("ALTER TABLE price DROP COLUMN amount")
    with pytest.raises(LoadError, match=r"has no column 'amount': run `collectkit migrate`"):
        upsert(Price, [(1, "a")])

    execute("DROP TABLE price")
    with pytest.raises(LoadError, match=r"does not exist: run `collectkit migrate`"):
        upsert(Price, [(1, "a")])


def test_the_source_is_not_read_when_the_load_cannot_be():
    rows = iter([(1, "a")])

    with pytest.raises(LoadError):
        upsert(Price, rows, key="amount")

    assert next(rows) == (1, "a")


def test_many_loads_fit_into_one_checkpoint():
    with checkpoint() as batch:
        for n in range(50):
            batch.upsert(Price, [(1, f"{n}")])

    assert batch.counts == Counts(inserted=50)
    assert replace(Price, [(1, f"{n}") for n in range(50)]) == Counts(unchanged=50)
