"""Records that cannot be used: counted, written down by their digest, and no reason to touch another row."""

from __future__ import annotations

import hashlib
import tracemalloc

import peewee
import pytest
from playhouse.postgres_ext import DateTimeTZField

from collectkit import Rejected, SnapshotRefused, TooManyRejected, collector, cron
from collectkit.counts import Counts
from collectkit.errors import LoadError
from collectkit.models import Model
from tests.loading import create, execute, query, replace, upsert

POISON = Rejected(b'{"cve": 7}', "Expected `str`, got `int` - at `$.cve`")


class Score(Model):
    cve = peewee.TextField(primary_key=True)
    epss = peewee.DecimalField(max_digits=6, decimal_places=5)


class Marked(Model):
    part = peewee.TextField()
    number = peewee.IntegerField()
    title = peewee.TextField()
    gone_at = DateTimeTZField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("part", "number")


@pytest.fixture(autouse=True)
def tables(db):
    create(Score, Marked)


def scores(count, epss="0.5"):
    return [(f"CVE-{n}", epss) for n in range(count)]


def poison(count):
    return [Rejected(b"poison %d" % n, "it is poison") for n in range(count)]


def stored():
    return {row.cve for row in Score.select()}


def written():
    return query("SELECT collector, digest, reason FROM collectkit.rejected ORDER BY reason, digest")


@pytest.mark.parametrize("load", [upsert, replace])
def test_a_rejected_record_is_counted_and_the_rows_around_it_are_loaded(load, caplog):
    rows = scores(100)

    counts = load(Score, [POISON, *rows[:50], Rejected(b"", "is empty"), *rows[50:]], max_rejected=0.02)

    assert counts == Counts(inserted=100, rejected=2)
    assert len(stored()) == 100
    assert caplog.messages == [f"table score: records rejected: 2, first: {POISON.reason}"]


def test_a_record_is_written_down_by_its_digest_with_the_reason_and_when_it_was_first_seen():
    upsert(Score, [POISON])

    digest = hashlib.sha256(POISON.record).hexdigest()
    assert written() == [("tests.a_collector", digest, POISON.reason)]
    assert query("SELECT first_seen <= clock_timestamp() FROM collectkit.rejected") == [(True,)]


def test_a_record_that_is_seen_again_keeps_its_first_time_and_takes_the_newer_reason():
    upsert(Score, [POISON])
    execute("UPDATE collectkit.rejected SET first_seen = '2026-01-01T00:00:00Z'")

    upsert(Score, [POISON])
    assert [reason for _, _, reason in written()] == [POISON.reason]
    upsert(Score, [Rejected(POISON.record, "is known better now")])

    assert [reason for _, _, reason in written()] == ["is known better now"]
    assert query("SELECT first_seen = '2026-01-01T00:00:00Z' FROM collectkit.rejected") == [(True,)]


def test_a_record_that_comes_twice_counts_twice_and_is_written_down_once():
    counts = upsert(Score, [POISON, *scores(10), POISON], max_rejected=0.5)

    assert counts == Counts(inserted=10, rejected=2)
    assert len(written()) == 1


def test_a_reason_is_kept_in_one_line_that_can_be_stored():
    upsert(Score, [Rejected(b"1", "two\nlines,\0 a NUL and \ud800 " + "x" * 1000)])

    [(_, _, reason)] = written()
    assert reason.startswith("two lines, a NUL and ? xxx")
    assert len(reason) == 500


@pytest.mark.parametrize(
    ("good", "bad", "share"), [(99, 1, 0.01), (198, 2, 0.01), (90, 10, 0.1), (0, 5, 1), (9, 1, 0.01), (0, 1, 0.01)]
)
def test_up_to_the_share_and_always_a_single_one_may_be_rejected(good, bad, share):
    counts = upsert(Score, [*poison(bad), *scores(good)], max_rejected=share)

    assert counts == Counts(inserted=good, rejected=bad)
    assert len(written()) == bad


@pytest.mark.parametrize(("good", "bad"), [(8, 2), (5, 5), (1, 1), (95, 5)])
def test_of_a_small_update_up_to_five_may_be_rejected_if_half_of_it_can_be_read(good, bad):
    assert upsert(Score, [*scores(good), *poison(bad)]) == Counts(inserted=good, rejected=bad)


@pytest.mark.parametrize(
    ("load", "good", "bad", "share"),
    [
        (upsert, 94, 6, 0.01),
        (upsert, 4, 5, 0.01),
        (upsert, 0, 2, 0.01),
        (upsert, 999, 1, 0),
        (replace, 98, 2, 0.01),
        (replace, 8, 2, 0.01),
        (replace, 89, 11, 0.1),
        (replace, 999, 1, 0),
    ],
)
def test_above_the_share_the_load_is_refused_and_nothing_moves(load, good, bad, share):
    upsert(Score, scores(good, epss="0.1"))

    with pytest.raises(TooManyRejected) as caught:
        load(Score, [*scores(good), *poison(bad)], max_rejected=share)

    assert str(caught.value) == (
        f"table 'score': load refused, the old rows stand: {bad} of {good + bad:,} records rejected, more than "
        f"max_rejected={share:g} allows, the first for: it is poison; look at the source, and if it has a new form, "
        "teach the collector to read it"
    )
    assert query("SELECT count(*) FROM score WHERE epss <> 0.1") == [(0,)]
    assert written() == []


def test_one_percent_is_what_may_be_rejected_if_nothing_is_said():
    with pytest.raises(TooManyRejected, match=r"max_rejected=0\.01"):
        replace(Score, [*scores(100), *poison(2)])


def test_rows_that_a_later_one_supersedes_count_as_rejected_and_weigh_nothing():
    counts = upsert(Score, [*scores(50), POISON, *scores(50)], max_rejected=0.01)

    assert counts == Counts(inserted=50, rejected=51)
    assert len(written()) == 1


def test_an_upsert_of_rejected_records_alone_leaves_the_table_alone():
    upsert(Score, scores(3))

    assert upsert(Score, [POISON]) == Counts(rejected=1)
    assert len(stored()) == 3


def test_a_snapshot_of_rejected_records_alone_is_an_empty_one():
    upsert(Score, scores(3))

    with pytest.raises(SnapshotRefused, match="no rows at all"):
        replace(Score, poison(3), max_rejected=1)


def test_a_replace_leaves_the_row_alone_whose_new_record_was_rejected():
    upsert(Score, scores(20))

    counts = replace(Score, [Rejected(b"CVE-0,x", "no number", key="CVE-0"), *scores(20)[2:]], max_shrink=0.05)

    assert counts == Counts(unchanged=18, removed=1, rejected=1)
    assert "CVE-0" in stored()
    assert "CVE-1" not in stored()


def test_a_row_whose_new_record_was_rejected_does_not_weigh_in_max_shrink():
    upsert(Score, scores(20))

    counts = replace(Score, [Rejected(b"CVE-0,x", "no number", key="CVE-0"), *scores(20)[1:]], max_shrink=0)

    assert counts == Counts(unchanged=19, rejected=1)


def test_a_row_whose_new_record_was_rejected_is_not_marked_as_gone_and_a_composite_key_is_a_sequence():
    rows = [("a", n, "t") for n in range(20)]
    upsert(Marked, rows)

    counts = replace(Marked, [*rows[2:], Rejected(b"?", "no title", key=("a", 0))])

    assert counts == Counts(unchanged=18, removed=1, rejected=1)
    assert query("SELECT number, gone_at IS NULL FROM marked WHERE number < 3 ORDER BY 1") == [
        (0, True),
        (1, False),
        (2, True),
    ]


def test_of_a_key_that_is_rejected_and_listed_the_row_is_taken():
    upsert(Score, scores(10))

    counts = replace(Score, [Rejected(b"?", "no number", key="CVE-0"), *scores(10, epss="0.6")])

    assert counts == Counts(updated=10, rejected=1)


@pytest.mark.parametrize(
    "key", ["no tuple", 5, ("a",), ("a", "five"), ("a", None), ("a", 2**80), ("a\0", 5), ("\ud800", 5), (object(), 5)]
)
def test_a_key_that_cannot_be_one_spares_nothing_and_breaks_nothing(key):
    rows = [("a", n, "t") for n in range(20)]
    upsert(Marked, rows)

    counts = replace(Marked, [*rows[:5], Rejected(b"?", "no title", key=key), *rows[6:]])

    assert counts == Counts(unchanged=19, removed=1, rejected=1)


def test_keys_are_compared_by_value_however_they_are_written():
    rows = [("a", n, "t") for n in range(20)]
    upsert(Marked, rows)
    twice = [Rejected(b"?", "no title", key=("a", " 05 ")), Rejected(b"?", "no title", key=["a", 5])]

    counts = replace(Marked, [*rows[:5], *twice, *rows[6:]], max_rejected=0.2)

    assert counts == Counts(unchanged=19, rejected=2)


def test_the_rows_of_an_error_are_numbered_without_the_rejected_records():
    with pytest.raises(LoadError, match=r"row 2, column 'epss': invalid input syntax"):
        upsert(Score, [POISON, ("a", "0.5"), ("b", "much")])


def test_a_share_is_a_part():
    with pytest.raises(ValueError, match=r"max_rejected is a part of the rows, 0 to 1, and not 1\.5"):
        upsert(Score, scores(1), max_rejected=1.5)


def test_a_feed_of_poison_is_given_up_early_and_does_not_fill_the_memory():
    numbers = iter(range(100_000))
    endless = (Rejected(b"%d" % number, "it is poison" * 20) for number in numbers)

    tracemalloc.start()
    with pytest.raises(TooManyRejected, match=r"10,000 of 10,000 records"):
        upsert(Score, endless)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert next(numbers) == 10_000
    assert peak < 10_000_000


def a_collector(rows):
    @collector(periodic=cron("0 * * * *"), data_models=[Score], name="tests.poisoned")
    def poisoned(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Score, rows)

    return poisoned


def test_a_dry_run_counts_rejected_records_and_writes_none_down(db):
    poisoned = a_collector([POISON, *scores(5)])
    db.enrol(poisoned)

    dry, real = poisoned.run_now(dry_run=True), poisoned.run_now()

    assert dry.counts == real.counts == Counts(inserted=5, rejected=1)
    assert [name for name, _, _ in written()] == ["tests.poisoned"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_with_too_many_rejected_records_fails_with_the_reason_and_its_watermark_stays(db, dry_run):
    poisoned = a_collector([*poison(5), *scores(3)])
    db.enrol(poisoned)

    outcome = poisoned.run_now(dry_run=dry_run)

    assert (outcome.outcome, outcome.updated_until) == ("FAILED", None)
    assert "5 of 8 records rejected" in outcome.reason
    assert stored() == set()
    assert written() == []
