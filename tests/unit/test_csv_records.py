from __future__ import annotations

import csv
import io
import re
from datetime import date
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from collectkit import Rejected, TextRows
from collectkit.csv_records import _line, read_csv, read_csv_texts

Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[^,]{1,9}(?:\.|x+)?\Z")]


class Score(Struct, frozen=True):
    id: Annotated[str, Meta(pattern=r"^CVE-[0-9]{4}-[0-9]{4,19}\Z")] = msgspec.field(name="cve")
    epss: Share
    percentile: Share


class Exploit(Struct, frozen=True, kw_only=True):
    id: int
    description: str
    port: int | None = None
    added: date | None = msgspec.field(default=None, name="date_added")
    codes: str = ""

    def __post_init__(self):
        if self.description == "nonsense":
            raise ValueError("nobody would say so")


HEADER = b"cve,epss,percentile\n"
GOOD = b"CVE-2026-0001,0.00043,0.1\n"


def flat(records):
    return [row for each in records for row in (each if isinstance(each, TextRows) else [each])]


def told(read, path, kind):
    """The texts of the records, or why there are none."""
    try:
        records = flat(read(path, kind, "id", None))
    except ValueError as error:
        return str(error)
    return [list(msgspec.structs.astuple(each)) if isinstance(each, kind) else each for each in records]


@pytest.fixture
def file(tmp_path):
    def write(body: bytes):
        path = tmp_path / "body"
        path.write_bytes(body)
        return path

    return write


@pytest.fixture
def texts(file):
    return lambda body, kind=Score, key="id": flat(read_csv_texts(file(body), kind, key, "#"))


@pytest.fixture
def rows(file):
    return lambda body, kind=Exploit, key="id": list(read_csv(file(body), kind, key, "#"))


def test_records_come_out_typed_whatever_the_order_of_the_columns_and_with_columns_that_nobody_knows(rows):
    body = b'port,more,description,id,date_added\n80,x,"one, two",7,2026-11-23\n'

    assert rows(body) == [Exploit(id=7, description="one, two", port=80, added=date(2026, 11, 23))]


def test_an_empty_field_takes_the_default_where_there_is_one_and_is_empty_text_where_there_is_none(rows):
    assert rows(b"id,description,port,codes\n7,,,\n") == [Exploit(id=7, description="")]


def test_texts_come_out_as_they_are_written_in_the_order_of_the_type(texts):
    in_order = texts(HEADER + b"CVE-2026-0001,0.000430,1e-05\nCVE-2026-0002,1.0,0\n")
    otherwise = texts(b"percentile,more,cve,epss\n1e-05,,CVE-2026-0001,0.000430\n")

    assert in_order == [["CVE-2026-0001", "0.000430", "1e-05"], ["CVE-2026-0002", "1.0", "0"]]
    assert otherwise == in_order[:1]


BAD = [
    (b"CVE-2026-0002,high,0.1", "Expected `float`, got `str` - at `$.epss`", "CVE-2026-0002"),
    (b"CVE-2026-0002,1.01,0.1", "Expected `float` <= 1.0 - at `$.epss`", "CVE-2026-0002"),
    (b"CVE-2026-0002,nan,0.1", "Expected `float` >= 0.0 - at `$.epss`", "CVE-2026-0002"),
    (b"CVE-2026-0002,,0.1", "Expected `float`, got `str` - at `$.epss`", "CVE-2026-0002"),
    (b"CVE-2026-0002, 0.1,0.1", "Expected `float`, got `str` - at `$.epss`", "CVE-2026-0002"),
    (b"CVE-2026-0002,0.1", "differs from the header in the number of fields: 2, not 3", "CVE-2026-0002"),
    (b"CVE-2026-0002,0.1,0.1,0.1", "differs from the header in the number of fields: 4, not 3", "CVE-2026-0002"),
    (b"<html>", "differs from the header in the number of fields: 1, not 3", None),
    (b"CVE-X,0.1,0.1", r"Expected `str` matching regex '^CVE-[0-9]{4}-[0-9]{4,19}\\Z' - at `$.cve`", None),
    (b'"CVE-2026-0002\n",0.1,0.1', r"Expected `str` matching regex '^CVE-[0-9]{4}-[0-9]{4,19}\\Z' - at `$.cve`", None),
]


@pytest.mark.parametrize(("line", "reason", "key"), BAD)
def test_a_record_that_does_not_fit_comes_out_rejected_with_its_key_and_the_others_as_they_are(
    texts, rows, line, reason, key
):
    body = HEADER + GOOD + line + b"\n" + GOOD

    good = ["CVE-2026-0001", "0.00043", "0.1"]
    assert texts(body) == [good, Rejected(line, reason, key), good]
    assert rows(body, Score)[1] == Rejected(line, reason, key)


def test_one_bad_record_among_thousands_is_found_and_no_good_one_is_lost(texts):
    lines = [b"CVE-2026-%04d,0.5,0.5\n" % n for n in range(3000)]
    lines[1234] = b"CVE-2026-1234,0.5,much\n"

    found = texts(HEADER + b"".join(lines))

    assert [n for n, row in enumerate(found) if isinstance(row, Rejected)] == [1234]
    assert [row[0] for row in found if not isinstance(row, Rejected)] == [
        f"CVE-2026-{n:04}" for n in range(3000) if n != 1234
    ]


def test_a_rule_of_the_type_is_kept_for_texts_too(texts):
    (rejected,) = texts(b"id,description\n7,nonsense\n", Exploit)

    assert rejected == Rejected(b"7,nonsense", "nobody would say so", 7)


def test_a_nul_is_rejected_before_postgresql_refuses_it(texts, rows):
    body = HEADER + b"CVE-2026-0002\0,0.1,0.1\n" + GOOD

    assert [type(row) for row in texts(body)] == [Rejected, list]
    assert rows(b"id,description\n7,a\0b\n") == [
        Rejected(b"7,a\0b", "holds a NUL character, which PostgreSQL cannot store", 7)
    ]


def test_bytes_that_are_not_utf_8_are_replaced_and_the_row_is_kept(rows):
    assert rows(b"id,description\n7,caf\xe9\n") == [Exploit(id=7, description="caf\ufffd")]


@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"#model_version:1\n", b"# one\n#two\n"])
def test_a_byte_order_mark_and_comments_before_the_header_are_passed_over(texts, head):
    assert texts(head + HEADER + b"\n" + GOOD + b"\n") == [["CVE-2026-0001", "0.00043", "0.1"]]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "has no column 'cve', its header is ''"),
        (b"<HTML><HEAD>\n<TITLE>Access Denied</TITLE>", "has no column 'cve', its header is '<HTML><HEAD>'"),
        (b"cve,epss\n", "has no column 'percentile', its header is 'cve,epss'"),
        (HEADER + b'"' + b"x" * 200_000, "sent CSV that cannot be read: field larger than field limit (131072)"),
    ],
)
def test_what_is_no_such_csv_is_refused_in_words(texts, rows, body, reason):
    for read in (texts, rows):
        with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
            read(body, Score)


def test_a_key_that_the_type_does_not_have_is_an_error_of_the_author(rows):
    with pytest.raises(TypeError, match=r"key='name' is no field of Exploit"):
        rows(b"id,description\n", key="name")


def test_an_optional_key_whose_column_is_missing_is_not_told(rows):
    (rejected,) = rows(b"id,description\nx,y\n", key="codes")

    assert rejected.key is None


class Plain(Struct, frozen=True):
    """Text alone, under rules that a line can be held against as it stands."""

    id: Annotated[str, Meta(pattern=r"^(?:[A-Z]-\d{1,3}|[^x])\Z")]
    name: Name
    more: str


PLAIN = b"id,name,more\n"


def test_lines_of_plain_text_go_on_by_the_hundred_as_copy_reads_them(file):
    lines = [b"A-%d,n%d,\xc3\xa9 %d\n" % (n, n, n) for n in range(500)]

    found = list(read_csv_texts(file(PLAIN + b"".join(lines)), Plain, "id", None))

    assert {type(texts) for texts in found} == {TextRows}
    assert [texts.count for texts in found] == [200, 200, 100]
    assert b"".join(texts.text for texts in found) == b"".join(lines).replace(b",", b"\t")


@pytest.mark.parametrize(
    "line",
    [
        b'A-1,"n",m\n',  # quoted
        b'A-1,n,"m\nm"\n',  # one record in two lines
        b"A-1,n\\t,m\n",  # what COPY would take for a tab
        b"A-1,n,\\N\n",  # or for NULL
        b"A-1,n\tn,m\n",
        b"A-1,n,m\r\n",
        b"A-1,n,m\rA-2,n,m\n",
        b"A-1,n,m",  # the last, unended
    ],
)
def test_a_line_that_is_not_as_copy_reads_it_is_taken_apart(file, line):
    around = b"".join(b"A-%d,n,m\n" % n for n in range(150))

    found = list(read_csv_texts(file(PLAIN + around + around + line), Plain, "id", None))

    assert [texts.count for texts in found if isinstance(texts, TextRows)] == [200]
    whole = csv.reader(io.StringIO((around + around + line).decode(), newline=""))
    assert flat(found) == list(whole)


@given(
    st.lists(
        st.text(st.sampled_from('A-1xé,,\n\n\r\t\\".\u2028'), max_size=12)
        | st.sampled_from(["A-1,n,m", "A-1,n,", "é,xx,m", "A-1,,m,n\nA-1,n", '"A-1","n,n",m']),
        max_size=8,
    )
)
def test_whatever_a_file_holds_its_records_are_those_that_fit_one_by_one(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("csv") / "body"
    path.write_bytes(PLAIN + "\n".join([*lines, "A-2,n,m\n"]).encode())

    assert told(read_csv_texts, path, Plain) == told(read_csv, path, Plain)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (msgspec.defstruct("One", [("id", str)]), b"id\nA\n\nB\n"),
        (Plain, PLAIN + b'A-1,n,m\nx,n,"m\n"\n\n'),
        (Plain, PLAIN + b"A-1,n," + b"m" * 140_000 + b"\n"),
    ],
    ids=["an-empty-line", "an-empty-line-after-a-newline-in-quotation", "a-field-that-is-too-long"],
)
def test_texts_and_records_are_read_and_refused_alike(file, kind, body):
    path = file(body)

    assert told(read_csv_texts, path, kind) == told(read_csv, path, kind)


def test_a_record_that_does_not_fit_takes_no_longer_for_each_further_column(file):
    columns = [*((f"c{n}", str) for n in range(60)), ("last", Annotated[str, Meta(pattern=r"^[0-9]\Z")])]
    body = ",".join(name for name, _ in columns) + "\n" + ",".join("x" for _ in columns) + "\n"

    # Each column doubles it, if the pattern can take a comma into any of them.
    (rejected,) = read_csv_texts(file(body.encode()), msgspec.defstruct("Wide", columns), None, None)

    assert isinstance(rejected, Rejected)


def test_a_column_that_is_not_in_the_file_keeps_no_line_from_being_checked_as_it_stands(file):
    kind = msgspec.defstruct("More", [("id", str), ("name", str), ("more", str), ("note", str, "")])

    (found,) = read_csv_texts(file(PLAIN + b"A-1,n,m\n"), kind, None, None)

    assert isinstance(found, TextRows)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^a\b.*\Z",
        r"^(a|b)\Z",
        r"^(?=.*z)a.*\Z",
        r"^a$",
        r"^a.*",
        r"a\Z",
        r"^a\n?\Z",
        r"^(?P<one>a)(?P=one)\Z",
        r"^[]a]\Z",
    ],
)
def test_a_pattern_that_could_mean_something_else_within_a_line_is_held_against_the_text_alone(pattern):
    assert _line([str, Annotated[str, Meta(pattern=pattern)]]) is None


def test_a_pattern_that_means_the_same_within_a_line_is_held_against_lines():
    assert _line([str, Annotated[str, Meta(pattern=r"^(?:a|[^b-d\]]{1,3}\d?\.)+\Z")]]) is not None


def test_a_line_with_more_fields_than_the_header_does_not_hide_in_a_field_that_takes_anything(texts):
    found = texts(PLAIN + b"A-1,n,m\nA-2,n,m,o\n", Plain)

    assert found == [
        ["A-1", "n", "m"],
        Rejected(b"A-2,n,m,o", "differs from the header in the number of fields: 4, not 3", "A-2"),
    ]
