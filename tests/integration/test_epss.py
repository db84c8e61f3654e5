from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from collectkit import Counts, acl_scope
from collectors.epss import tasks
from collectors.epss.models import Epss
from collectors.epss.tasks import epss_collector
from tests.feeds import scores
from tests.mirror import mirrored

RECORDED = Path(__file__).parents[1] / "data" / "epss"
MODEL, NEXT_MODEL = "v2026.06.15", "v2027.01.01"
TODAY, TOMORROW = "2026-11-23T12:02:54Z", "2026-11-24T12:02:54Z"


def recorded(version: str) -> bytes:
    return (RECORDED / f"epss_scores-{version}.csv.gz").read_bytes()


@pytest.fixture
def mirror(db, monkeypatch):
    with mirrored(db, monkeypatch, tasks, epss_collector) as mirror:
        yield mirror


def test_recorded_days_give_the_counted_numbers(mirror):
    days = [mirror.load(recorded(day)) for day in ("2026-06-13", "2026-06-20", "2026-08-08")]

    assert days == [
        Counts(inserted=3939),
        Counts(inserted=8, updated=3932, removed=7),
        Counts(inserted=127, updated=3886, unchanged=54),
    ]
    assert mirror.result == "scores of 2026-08-08, model v2026.06.15: 127 inserted, 3,886 updated, 54 unchanged"


def test_only_rows_that_differ_are_written(mirror):
    mirror.load(scores(range(100)))
    before = mirror.versions

    counts = mirror.load(scores(range(102), date=TOMORROW, other=[7, 8, 9]))

    after = mirror.versions
    assert counts == Counts(inserted=2, updated=3, unchanged=97)
    assert len([cve for cve in before if after[cve] != before[cve]]) == 3


def test_scores_are_kept_as_exact_as_they_are_written(mirror):
    mirror.load(scores([], lines=["CVE-2026-0001,0.00043,0.123456789012345678901", "CVE-2026-0002,1,1e-05"]))

    assert mirror.query("SELECT cve_id, epss::text, percentile::text FROM epss ORDER BY 1") == [
        ("CVE-2026-0001", "0.00043", "0.123456789012345678901"),
        ("CVE-2026-0002", "1", "0.00001"),
    ]
    with acl_scope(["public"]):
        assert Epss.get_by_id("CVE-2026-0001").epss == Decimal("0.00043")
    assert Epss.select().count() == 0


def test_date_and_model_of_the_scores_are_the_cursor(mirror):
    mirror.load(scores(range(10)))

    watermark, meta = mirror.state
    assert (meta["model_version"], meta["score_date"]) == (MODEL, "2026-11-23T12:02:54+00:00")
    assert watermark == mirror.query("SELECT started_at FROM collectkit.run")[0][0]


@pytest.mark.parametrize(
    ("date", "moment"),
    [
        ("2025-01-31T00:00:00+0000", datetime(2025, 1, 31, tzinfo=UTC)),
        ("2025-01-31T12:55:00Z", datetime(2025, 1, 31, 12, 55, tzinfo=UTC)),
        ("2025-01-31T12:55:00+02:00", datetime(2025, 1, 31, 10, 55, tzinfo=UTC)),
    ],
)
def test_a_date_is_understood_however_it_was_written(mirror, date, moment):
    mirror.load(scores(range(10), date=date))

    assert datetime.fromisoformat(mirror.state[1]["score_date"]) == moment


def test_other_bytes_of_the_same_date_and_model_are_unchanged(mirror):
    mirror.load(scores(range(10)))
    before, (watermark, meta) = mirror.versions, mirror.state

    counts = mirror.load(scores(range(10), other=[1]))

    assert (counts, mirror.result) == (Counts(), "unchanged")
    assert mirror.versions == before
    assert mirror.state[0] > watermark
    assert mirror.state[1].items() >= {name: meta[name] for name in ("model_version", "score_date")}.items()


def test_the_same_date_from_another_model_is_a_change(mirror):
    mirror.load(scores(range(10)))

    assert mirror.load(scores(range(10), model=NEXT_MODEL, other=[1])) == Counts(updated=1, unchanged=9)


def test_more_than_one_in_fifty_may_vanish_only_with_a_new_model(mirror):
    mirror.load(scores(range(1000)))
    state = mirror.state

    mirror.publish(scores(range(979), date=TOMORROW))
    outcome = mirror.run()
    assert outcome.outcome == "FAILED"
    assert "21 of 1,000 rows no longer listed" in outcome.reason
    assert (len(mirror.versions), mirror.state) == (1000, state)

    assert mirror.load(scores(range(980), date=TOMORROW)) == Counts(unchanged=980, removed=20)
    assert mirror.load(scores(range(500), date=TOMORROW, model=NEXT_MODEL)) == Counts(unchanged=500, removed=480)


POISON = "CVE-2000-10000,much,0.5"


def test_one_poison_record_is_set_aside_and_its_row_stays(mirror):
    mirror.load(scores(range(1000)))

    counts = mirror.load(scores(range(1, 1000), date=TOMORROW, lines=[POISON]))

    assert counts == Counts(unchanged=999, rejected=1)
    assert "CVE-2000-10000" in mirror.versions
    [(collector, digest, reason)] = mirror.query("SELECT collector, digest, reason FROM collectkit.rejected")
    assert (collector, digest) == (epss_collector.name, hashlib.sha256(POISON.encode()).hexdigest())
    assert reason.startswith("Expected `str` matching regex")
    assert reason.endswith("at `$.epss`")


GOOD = scores(range(1000), date=TOMORROW, other=range(1, 11))
HEADS = {
    "a NUL character": (scores(range(10), model="v\0"), "does not begin with model_version and score_date"),
    "no comment": (
        gzip.compress(b"cve,epss,percentile\nCVE-2026-0001,0.1,0.1\n"),
        "but with 'cve,epss,percentile'",
    ),
    "no date": (gzip.compress(b"#model_version:v1\ncve,epss,percentile\n"), "but with '#model_version:v1'"),
    "date without zone": (scores(range(10), date="2026-11-24T12:00:00"), "which is no moment with its zone"),
    "no moment": (scores(range(10), date="tomorrow"), "has the score_date 'tomorrow'"),
    "no such column": (
        gzip.compress(f"#model_version:{MODEL},score_date:{TOMORROW}\ncve,score\n".encode()),
        "has no column 'epss', its header is 'cve,score'",
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_cannot_be_read_fails_in_one_line_and_the_old_rows_stand(mirror, head):
    mirror.load(scores(range(1000)))
    before, state = mirror.versions, mirror.state
    body, reason = HEADS[head]

    mirror.publish(body)
    outcome = mirror.run()

    assert outcome.outcome == "FAILED"
    assert reason in outcome.reason
    assert "\n" not in outcome.reason
    assert (mirror.versions, mirror.state) == (before, state)
    assert mirror.load(GOOD) == Counts(updated=10, unchanged=990)
