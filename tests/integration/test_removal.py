from __future__ import annotations

import peewee
import pytest
from playhouse.postgres_ext import DateTimeTZField

from collectkit.counts import Counts
from collectkit.errors import LoadError, SnapshotRefused
from collectkit.models import Model
from tests.loading import checkpoint, create, query, upsert, versions


class Score(Model):
    cve = peewee.TextField(primary_key=True)
    epss = peewee.FloatField()


class Advisory(Model):
    source = peewee.TextField()
    number = peewee.IntegerField()
    gone_at = DateTimeTZField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("source", "number")


@pytest.fixture(autouse=True)
def tables(db):
    create(Score, Advisory)
    upsert(Score, [(f"CVE-{n:02}", 0.5) for n in range(20)])
    upsert(Advisory, [("pypi", n) for n in range(20)])


def remove(model, keys, **options):
    with checkpoint() as batch:
        counts = batch.remove(model, keys, **options)
        assert batch.counts == counts
    return counts


def test_rows_go_by_their_keys_and_others_stay():
    counts = remove(Score, ["CVE-03", "CVE-05", "CVE-99"])

    assert counts == Counts(removed=2)
    assert sorted(versions(Score, "cve")) == [f"CVE-{n:02}" for n in range(20) if n not in {3, 5}]


def test_where_the_model_has_gone_at_they_are_marked_once():
    first = remove(Advisory, [("pypi", 3), ["pypi", 5]])
    marked = query("SELECT number, gone_at FROM advisory WHERE gone_at IS NOT NULL ORDER BY number")

    again = remove(Advisory, [("pypi", 3), ("pypi", 7)])

    assert (first, again) == (Counts(removed=2), Counts(removed=1))
    assert [number for number, _ in marked] == [3, 5]
    assert query("SELECT number, gone_at FROM advisory WHERE number IN (3, 5) ORDER BY number") == marked


def test_a_row_that_comes_back_loses_the_mark():
    remove(Advisory, [("pypi", 3)])

    assert upsert(Advisory, [("pypi", 3)]) == Counts(updated=1)
    assert query("SELECT count(*) FROM advisory WHERE gone_at IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("keys", [[], [None], ["nowhere"]])
def test_keys_that_no_row_has_remove_nothing(keys):
    assert remove(Score, keys) == Counts()
    assert len(versions(Score, "cve")) == 20


@pytest.mark.parametrize(("going", "max_shrink"), [(3, 0.1), (1, 0), (20, 0.99)])
def test_more_than_max_shrink_is_refused(going, max_shrink):
    with pytest.raises(SnapshotRefused, match=f"{going} of 20 rows would go.*max_shrink={max_shrink}"):
        remove(Score, [f"CVE-{n:02}" for n in range(going)], max_shrink=max_shrink)

    assert len(versions(Score, "cve")) == 20


def test_rows_that_are_marked_already_do_not_weigh():
    remove(Advisory, [("pypi", n) for n in range(10)], max_shrink=0.5)

    with pytest.raises(SnapshotRefused, match="2 of 10 rows would go"):
        remove(Advisory, [("pypi", n) for n in range(12)])


def test_another_key_needs_a_unique_index():
    with pytest.raises(LoadError, match="has no unique index"):
        remove(Score, [0.5], key="epss")
