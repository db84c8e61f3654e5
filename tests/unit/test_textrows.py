from __future__ import annotations

import pytest

from collectkit import TextRows


def test_iterated_over_they_are_sequences_of_text():
    assert list(TextRows("a\té\n\tb\n".encode(), 2, 2)) == [["a", "é"], ["", "b"]]


@pytest.mark.parametrize(
    ("text", "count", "width"),
    [
        (b"", 0, 1),
        (b"a\tb", 1, 2),
        (b"a\tb\n", 2, 2),
        (b"a\tb\n", 1, 3),
        (b"a\n", 1, 0),
        (b"a\t\\N\n", 1, 2),
        (b"a\tb\r\n", 1, 2),
        (b"a\t\0\n", 1, 2),
    ],
)
def test_a_text_that_copy_would_read_otherwise_is_refused(text, count, width):
    with pytest.raises(ValueError, match=f"this text is not {count} rows of {width} values"):
        TextRows(text, count, width)
