"""Which names a new collector package may have."""

from __future__ import annotations

import pytest

from collectkit.errors import CollectkitError
from collectkit.scaffold import create


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("No-Name", "use small letters, digits and underscores"),
        ("class", "and no word of Python"),
        ("kev", "the collector kev is there already: choose another name"),
    ],
)
def test_a_name_that_cannot_be_or_is_taken_by_a_shipped_collector_is_refused(tmp_path, name, words):
    """A package of the name of a shipped one would hide it, and take over its row and its table."""
    with pytest.raises(CollectkitError, match=words):
        create(name, tmp_path)

    assert not list(tmp_path.iterdir())
