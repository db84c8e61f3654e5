from __future__ import annotations

import msgspec
import pytest

from collectkit.counts import Counts


def test_counts_show_the_kinds_that_there_are_with_thousands_apart():
    counts = Counts(inserted=5, updated=3, unchanged=1652)

    assert str(counts) == "5 inserted, 3 updated, 1,652 unchanged"


def test_counts_show_every_kind_in_the_order_of_their_fields():
    assert str(Counts(1, 2, 3, 4, 5, 6)) == "1 inserted, 2 updated, 3 unchanged, 4 removed, 5 rejected, 6 denied"


def test_no_rows_at_all_are_nothing():
    assert str(Counts()) == "nothing"


def test_counts_add_up_kind_by_kind():
    total = Counts(1, 2, 3, 4, 5, 6) + Counts(10, 20, 30, 40, 50, 60)

    assert total == Counts(11, 22, 33, 44, 55, 66)


@pytest.mark.parametrize("kind", ["inserted", "updated", "removed"])
def test_a_written_row_changes_the_table(kind):
    assert Counts(**{kind: 1}).changed


@pytest.mark.parametrize("kind", ["unchanged", "rejected", "denied"])
def test_a_row_that_was_not_written_does_not_change_the_table(kind):
    assert not Counts(**{kind: 1}).changed


def test_counts_cannot_be_changed():
    with pytest.raises(AttributeError):
        Counts().inserted = 1  # type: ignore[misc]


def test_counts_are_kept_as_plain_numbers_by_name():
    assert msgspec.to_builtins(Counts(inserted=1))["inserted"] == 1
    assert msgspec.convert({"inserted": 1}, Counts) == Counts(inserted=1)
