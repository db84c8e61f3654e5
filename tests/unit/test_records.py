from __future__ import annotations

import json
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Raw, Struct

from collectkit import Rejected, decode_each, decode_files
from collectkit.records import without_halves


class Item(Struct, frozen=True, kw_only=True, rename="camel"):
    cve_id: Annotated[str, Meta(pattern=r"^CVE-[0-9]+\Z")] = msgspec.field(name="cveID")
    score: float
    due_on: str = ""

    def __post_init__(self):
        if self.score > 10:
            raise ValueError("a score is at most 10")


class Inner(Struct):
    id: str
    score: float


class Outer(Struct):
    cve: Inner


START = "invalid start byte"
GOOD = b'{"cveID": "CVE-1", "score": 5}'


def decoded(*records, type=Item, key=None):  # noqa: A002 - as in msgspec
    return list(decode_each(records, type, key=key))


def test_records_come_out_typed_and_in_their_order():
    found = decoded(GOOD, b'{"cveID": "CVE-2", "score": 1.5, "dueOn": "today", "more": []}')

    assert found == [Item(cve_id="CVE-1", score=5), Item(cve_id="CVE-2", score=1.5, due_on="today")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'{"cveID": "CVE-1", "score": "high"}', "Expected `float`, got `str` - at `$.score`"),
        (b'{"cveID": "CVE-1"}', "Object missing required field `score`"),
        (b'{"cveID": "CVE-x", "score": 1}', r"Expected `str` matching regex '^CVE-[0-9]+\\Z' - at `$.cveID`"),
        (b'{"cveID": "CVE-1", "score": 11}', "a score is at most 10"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"cveID": "CVE-1", "sc', "Input data was truncated"),
        (b'{"cveID": "CVE-\xff"}', "'utf-8' codec can't decode byte 0xff in position 4: invalid start byte"),
        (b'{"cveID": "CVE-1", "score": 1, "\xff": 1}', "'utf-8' codec can't decode byte 0xff in position 32: " + START),
        (b'{"cveID": "CVE-1", "score": ' + b"[" * 100_000, "Expected `float`, got `array` - at `$.score`"),
        (b'{"cveID": "CVE-1", "score": 1, "more": ' + b"[" * 100_000, "is nested too deeply"),
        (b"", "Input data was truncated"),
    ],
)
def test_a_record_that_does_not_fit_comes_out_rejected_with_the_reason(record, reason):
    assert decoded(GOOD, record, GOOD) == [
        Item(cve_id="CVE-1", score=5),
        Rejected(record, reason),
        Item(cve_id="CVE-1", score=5),
    ]


@pytest.mark.parametrize("text", ["\0", "before\0after", "\\\0", '"\\\\\0'])
def test_a_nul_anywhere_in_a_record_is_rejected_before_postgresql_refuses_it(text):
    record = json.dumps({"cveID": "CVE-1", "score": 1, "more": {"deep": [text]}}).encode()

    assert decoded(record) == [Rejected(record, "holds a NUL character, which PostgreSQL cannot store")]


@pytest.mark.parametrize("text", ["\\u0000", "u0000", "\\\\u0000 \\u00000"])
def test_what_only_looks_like_a_nul_passes(text):
    record = json.dumps({"cveID": "CVE-1", "score": 1, "dueOn": text}).encode()

    assert decoded(record) == [Item(cve_id="CVE-1", score=1, due_on=text)]


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (b'{"score": "high", "cveID": "CVE-1"}', "CVE-1"),
        (b'{"cveID": "CVE-x", "score": 1}', None),
        (b'{"score": 1}', None),
        (b'{"cveID": "CVE-1", "sc', None),
        (b'{"cveID": "CVE-1", "score": 1, "more": "\\ud800"}', "CVE-1"),
        (b'{"cveID": "CVE-1", "score": 1, "more": "\xff"}', "CVE-1"),
    ],
)
def test_the_key_of_a_rejected_record_is_told_if_that_much_of_it_can_be_read(record, key):
    (rejected,) = decoded(record, key="cve_id")

    assert rejected.key == key


def test_a_key_may_lie_within_other_fields():
    (rejected,) = decoded(b'{"cve": {"id": "CVE-1", "score": null}}', type=Outer, key="cve.id")

    assert rejected.key == "CVE-1"


def test_the_key_of_a_file_is_told_by_its_name_however_broken_it_is():
    found = decode_files([("a/CVE-1.json", GOOD), ("CVE-2.json", b"{")], Item, key=lambda name: name[:5])

    assert list(found) == [
        ("a/CVE-1.json", GOOD, Item(cve_id="CVE-1", score=5)),
        ("CVE-2.json", b"{", Rejected(b"{", "Input data was truncated", "CVE-2")),
    ]


def test_what_was_rejected_unread_stays_so_and_its_file_tells_the_key():
    unread = Rejected(b"CVE-1", "is too large")

    assert decoded(unread, GOOD, type=Item) == [unread, Item(cve_id="CVE-1", score=5)]
    assert list(decode_files([("CVE-1", unread)], Item, key=str)) == [
        ("CVE-1", b"CVE-1", Rejected(b"CVE-1", "is too large", "CVE-1"))
    ]


@pytest.mark.parametrize("key", ["cve.name", "id", "cveID"])
def test_a_key_that_the_type_does_not_have_is_an_error_of_the_author(key):
    with pytest.raises(TypeError, match="is no field of"):
        decoded(GOOD, type=Outer, key=key)


def test_records_of_a_document_are_decoded_as_they_are_asked_for():
    class Document(Struct):
        items: tuple[Raw, ...]

    document = msgspec.json.decode(b'{"items": [%b, {"cveID": 7}, %b]}' % (GOOD, GOOD), type=Document)

    found = decode_each(document.items, Item)

    assert next(found) == Item(cve_id="CVE-1", score=5)
    assert next(found).record == b'{"cveID": 7}'


@pytest.mark.parametrize("half", [r"\ud800", r"\uDBFFx", r"\udc00", r"\udc00\ud800", r"\ud800\n", r"\\\ud9ab"])
def test_half_a_surrogate_pair_costs_its_record_and_not_the_document(half):
    document = b'[%b, {"cveID": "CVE-2", "score": 1, "more": "%b"}, %b]' % (GOOD, half.encode(), GOOD)

    good, poison, other = decoded(*msgspec.json.decode(without_halves(document), type=tuple[Raw, ...]), key="cve_id")

    assert good == other == Item(cve_id="CVE-1", score=5)
    assert isinstance(poison, Rejected)
    assert poison.key == "CVE-2"
    assert "'utf-8' codec can't decode byte 0xed" in poison.reason


@pytest.mark.parametrize("text", ["\\ud800", "\U0001f600", "caf\u00e9 \\", "\ufffd\U00010000\ud7ff"])
def test_whole_pairs_and_what_only_looks_like_a_half_stay_as_they_are(text):
    document = json.dumps([text]).encode()

    assert without_halves(document) == document
