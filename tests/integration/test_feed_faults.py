"""What faults of their sources do to the shipped feeds: each of the table, with each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectkit import download
from collectkit.testing import clean_database
from tests.fault_table import ARCHIVE, FAULTS, RECORD, Effect, expected_of, rendered
from tests.replay import Replay
from tests.sources import FEEDS, RECORDS, Played, PlayedGit, Version

# Whatever goes wrong with an answer of osv goes wrong with its index; the others are fetched by the same call.
AS_THE_INDEX = {RECORD, ARCHIVE}
CASES = [
    (feed, name)
    for feed in FEEDS
    for name, fault in FAULTS.items()
    if expected_of(name, feed) and not (feed in AS_THE_INDEX and fault.answers and feed not in fault.differs)
]


@pytest.fixture(scope="module")
def played_feed(request, collectkit_database_url, tmp_path_factory):
    """A feed that is complete; after each fault, the last one too, the next good version is taken."""
    directory = tmp_path_factory.mktemp("feed")
    with (
        clean_database(collectkit_database_url, directory) as db,
        Replay() as source,
        pytest.MonkeyPatch.context() as patch,
    ):
        feed = FEEDS[request.param]
        url = db.settings.database_url
        played = (
            PlayedGit(directory, source, url, patch) if request.param == "cvelist" else Played(feed, source, url, patch)
        )
        db.enrol(feed.collector)
        yield played
        played.load()
        played.close()


@pytest.fixture
def played(played_feed):
    played_feed.load()
    return played_feed


@pytest.mark.parametrize(("played_feed", "name"), CASES, indirect=["played_feed"], scope="module")
def test_a_fault_comes_to_what_the_table_says(request, played, name, monkeypatch, caplog):
    fault, feed = FAULTS[name], played.feed
    expected = expected_of(name, request.node.callspec.params["played_feed"])
    if fault.limits:
        played.limit(monkeypatch, fault.limits)
    if fault.silence:
        monkeypatch.setattr(download, "SILENCE_SECONDS", fault.silence)
    rows, (watermark, meta) = played.rows, played.state
    caplog.clear()

    played.show(Version(played.number + 1 - fault.behind, **fault.shows), fault)
    outcome = played.run()

    says = expected.says.format(accept=feed.accept, size=10 * feed.usual, limit=getattr(feed.tasks, feed.limit, 0))
    assert says in (outcome.reason or f"{played.result}\n{caplog.text}")
    kept = rows.items() & played.rows.items()
    if expected is fault.expected and fault.waits is not None:
        assert played.waits == fault.waits
    assert len(played.rows) == RECORDS
    if expected.effect is Effect.REFUSED:
        assert outcome.outcome == "FAILED"
        assert "the old rows stand" in outcome.reason
        assert "\n" not in outcome.reason
    else:
        assert outcome.outcome == "OK", outcome.reason
    if expected.effect in {Effect.REFUSED, Effect.PASSED}:
        assert (len(kept), played.state) == (RECORDS, (watermark, meta))
    elif expected.effect is Effect.UNCHANGED:
        assert len(kept) == RECORDS
        assert played.state[0] > watermark
    else:
        assert len(kept) == int(expected.effect is Effect.IN_PART)
        assert played.state[0] > watermark
        assert outcome.counts.rejected == int(expected.effect is Effect.LAST) or expected.effect is Effect.IN_PART
    played.number += 1


def test_the_page_on_faults_has_the_table():
    page = Path(__file__).parents[2] / "docs" / "reference" / "faults.md"

    assert rendered() in page.read_text("utf-8"), "python -m tests.fault_table prints it"
