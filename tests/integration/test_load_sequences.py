"""Any sequence of loads against the same loads in plain Python: the table and the counts must agree."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.postgres_ext import ArrayField, BinaryJSONField, DateTimeTZField

from collectkit.counts import Counts
from collectkit.errors import SnapshotRefused
from collectkit.models import Model
from collectkit.rejection import Rejected
from tests.loading import checkpoint, create, execute

FIELDS = ("text", "number", "tags", "doc")


class Deleting(Model):
    part = peewee.TextField()
    number = peewee.IntegerField(null=True)
    text = peewee.TextField(null=True)
    tags = ArrayField(peewee.TextField, null=True, index=False)
    doc = BinaryJSONField(null=True, index=False)
    place = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("part", "place")


class Marking(Deleting):
    gone_at = DateTimeTZField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("part", "place")


# Everything that a column can hold, with what means something to COPY, to arrays or to JSON more often than by chance.
texts = st.text(
    st.one_of(st.sampled_from("\t\n\r\\\"',{}N.\x01é漢🙂"), st.characters(exclude_characters="\0", codec="utf-8")),
    max_size=6,
)
docs = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
# Few keys, so that a sequence meets the same row again and again.
parts, places = st.sampled_from(["a\t", ""]), st.integers(1, 2)
rejected = st.builds(Rejected, st.binary(max_size=1), st.just("poison"), st.none() | st.tuples(parts, places))
rows = st.fixed_dictionaries(
    {
        "part": parts,
        "place": places,
        "text": st.none() | texts,
        "number": st.none() | st.integers(-2, 2),
        "tags": st.none() | st.lists(st.none() | texts, max_size=3),
        "doc": docs,
    }
)
records = st.lists(rows | rows | rejected, max_size=6)
loads = st.tuples(st.sampled_from(["replace", "upsert"]), records, st.sampled_from([1, 1, 0.5, 0.1]))


class Expected:
    """What a table of this kind holds after each load: by key its values, and whether it is gone."""

    def __init__(self, *, marks: bool) -> None:
        self.marks = marks
        self.rows: dict[tuple[str, int], tuple[dict[str, Any], bool]] = {}

    def load(self, operation: str, snapshot: list[Any], max_shrink: float) -> Counts | None:
        spared = {record.key for record in snapshot if isinstance(record, Rejected)}
        used = [record for record in snapshot if not isinstance(record, Rejected)]
        listed = {(row["part"], row["place"]): {name: row[name] for name in FIELDS} for row in used}
        live = [key for key, (_, gone) in self.rows.items() if not gone]
        unlisted = [key for key in live if key not in {*listed, *spared}] if operation == "replace" else []
        if operation == "replace" and (not listed or len(unlisted) > max_shrink * len(live)):
            return None
        inserted = [key for key in listed if key not in self.rows]
        updated = [key for key in listed if key in self.rows and self.rows[key] != (listed[key], False)]
        for key in unlisted:
            values, _ = self.rows.pop(key)
            if self.marks:
                self.rows[key] = (values, True)
        self.rows |= {key: (values, False) for key, values in listed.items()}
        return Counts(
            inserted=len(inserted),
            updated=len(updated),
            unchanged=len(listed) - len(inserted) - len(updated),
            removed=len(unlisted),
            rejected=len(snapshot) - len(listed),
        )


def stored(model: type[Model]) -> dict[tuple[str, int], tuple[dict[str, Any], bool]]:
    return {
        (row["part"], row["place"]): ({name: row[name] for name in FIELDS}, row.get("gone_at") is not None)
        for row in model.select().dicts()
    }


@pytest.mark.parametrize("model", [Deleting, Marking])
def test_any_sequence_of_loads_leaves_what_the_same_loads_leave_in_python(db, model):
    create(model)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(loads, min_size=4, max_size=8))
    def run(sequence):
        execute(f"DELETE FROM {model._meta.table_name}")
        expected = Expected(marks=model is Marking)
        for operation, snapshot, max_shrink in sequence:
            before = dict(expected.rows)
            wanted = expected.load(operation, snapshot, max_shrink)
            with checkpoint() as batch:
                if operation == "upsert":
                    counts = batch.upsert(model, iter(snapshot), max_rejected=1)
                elif wanted is not None:
                    counts = batch.replace(model, iter(snapshot), max_shrink=max_shrink, max_rejected=1)
                else:
                    with pytest.raises(SnapshotRefused):
                        batch.replace(model, iter(snapshot), max_shrink=max_shrink, max_rejected=1)
                    counts, expected.rows = None, before
            assert counts == wanted
            assert stored(model) == expected.rows

    run()
