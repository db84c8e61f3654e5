"""Nothing leaks: random programs on real connections, each statement compared with what its scope allows."""

from __future__ import annotations

import pytest

from collectkit import scoped
from tests.counter import Counter
from tests.leaks import search
from tests.secured import archive_of

# A server-side cursor on a connection that was killed cannot be closed any more.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

STATEMENTS = 5_000


@pytest.fixture
def archive(db):
    with archive_of(db) as made:
        yield made


def test_no_row_is_seen_or_written_outside_the_groups(archive):
    with Counter() as counter:
        search(counter, archive, STATEMENTS)

    assert counter.statements >= STATEMENTS


def test_the_search_finds_what_a_plain_set_leaks(archive, monkeypatch):
    monkeypatch.setattr(scoped, "_SET", scoped._SET.replace("true", "false"))

    with Counter() as counter, pytest.raises(AssertionError, match=r"without a transaction has groups|instead of"):
        search(counter, archive, STATEMENTS)
