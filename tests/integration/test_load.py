from __future__ import annotations

import logging
import threading
import time
import tracemalloc

import peewee
import psycopg
import pytest
from playhouse.postgres_ext import DateTimeTZField

from collectkit.counts import Counts
from collectkit.database import database, ledger_db
from collectkit.errors import LoadError, SnapshotRefused
from collectkit.models import Model
from tests.loading import checkpoint, create, execute, query, replace, upsert, versions


class Score(Model):
    cve = peewee.TextField(primary_key=True)
    epss = peewee.DecimalField(max_digits=6, decimal_places=5)
    note = peewee.TextField(null=True)


class Advisory(Model):
    source = peewee.TextField()
    number = peewee.IntegerField()
    title = peewee.TextField(null=True)
    gone_at = DateTimeTZField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("source", "number")


class Counted(Model):
    name = peewee.TextField(unique=True)
    label = peewee.TextField(unique=True)


class Odd(Model):
    select = peewee.TextField(primary_key=True, column_name='se"lect')
    value = peewee.TextField(column_name="a b; --", null=True)

    class Meta:
        schema = "odd schema"
        table_name = 'ta"ble'


@pytest.fixture(autouse=True)
def tables(db):
    create(Score, Advisory, Counted)


def scores():
    return {row.cve: (float(row.epss), row.note) for row in Score.select()}


def advisories():
    return {row.number: (row.title, row.gone_at is not None) for row in Advisory.select()}


def ten(note=None):
    return [(f"CVE-{n}", "0.5", note) for n in range(10)]


def test_an_upsert_inserts_new_rows_updates_changed_ones_and_leaves_the_rest():
    upsert(Score, [("a", "0.1", None), ("b", "0.2", None), ("kept", "0.9", None)])

    counts = upsert(Score, [("a", "0.1", None), ("b", "0.3", "now"), ("c", "0.4", None)])

    assert counts == Counts(inserted=1, updated=1, unchanged=1)
    assert scores() == {"a": (0.1, None), "b": (0.3, "now"), "c": (0.4, None), "kept": (0.9, None)}


def test_a_replace_also_deletes_what_is_no_longer_listed():
    upsert(Score, ten())

    counts = replace(Score, [*ten()[1:], ("new", "0.1", None)])

    assert counts == Counts(inserted=1, unchanged=9, removed=1)
    assert "CVE-0" not in scores()
    assert "new" in scores()


def test_a_table_that_was_vacuumed_while_it_was_empty_is_not_read_once_for_each_row():
    # PostgreSQL plans by what it last knew of the table, and a loop over nothing costs nothing.
    ledger_db.run("VACUUM ANALYZE score")

    with checkpoint() as batch:
        counts = batch.upsert(Score, [(f"CVE-{n}", "0.5", None) for n in range(2_000)])
        reads = database.execute_sql("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'score'").fetchone()
        loops = database.execute_sql("SHOW enable_nestloop").fetchone()

    assert counts == Counts(inserted=2_000)
    assert reads < (10,)
    assert loops == ("on",)


def test_unchanged_rows_are_not_written():
    upsert(Score, ten())
    before = versions(Score, "cve")

    replace(Score, [("CVE-0", "0.6", None), *ten()[1:]])

    after = versions(Score, "cve")
    assert [cve for cve in after if after[cve] != before[cve]] == ["CVE-0"]


def test_a_null_differs_from_a_value_and_equals_a_null():
    upsert(Score, [("a", "0.1", None), ("b", "0.1", "x"), ("c", "0.1", None)])

    counts = upsert(Score, [("a", "0.1", "x"), ("b", "0.1", None), ("c", "0.1", None)])

    assert counts == Counts(updated=2, unchanged=1)
    assert scores()["b"] == (0.1, None)


def test_of_rows_with_one_key_the_last_counts_and_the_others_are_told(caplog):
    rows = [("a", "0.1", "first"), ("b", "0.1", None), ("a", "0.2", "second"), ("a", "0.3", "last")]

    with caplog.at_level(logging.WARNING):
        counts = upsert(Score, rows)

    assert counts == Counts(inserted=2, rejected=2)
    assert scores()["a"] == (0.3, "last")
    assert caplog.messages == ["table score: rows superseded by a later row of the same key: 2, first: a"]


def test_the_last_of_many_rows_counts_however_they_lie_on_disk():
    # Rows of very different sizes do not lie in the order in which they came.
    rows = [(f"CVE-{n % 100}", "0.1", "x" * (n * 37 % 1900)) for n in range(3000)]

    counts = upsert(Score, rows)

    assert counts == Counts(inserted=100, rejected=2900)
    assert {cve: note for cve, (_, note) in scores().items()} == {cve: note for cve, _, note in rows}


def test_an_upsert_of_nothing_does_nothing():
    assert upsert(Score, iter(())) == Counts()


def test_an_empty_snapshot_is_refused_whatever_may_shrink():
    upsert(Score, ten())

    with pytest.raises(SnapshotRefused, match=r"'score'.*no rows at all"):
        replace(Score, [], max_shrink=1)

    assert len(scores()) == 10


def test_a_snapshot_that_has_shrunk_too_far_is_refused_before_anything_is_written():
    upsert(Score, ten())
    before = versions(Score, "cve")

    with checkpoint() as batch:
        with pytest.raises(SnapshotRefused, match=r"'score'.*2 of 10 rows .* max_shrink=0\.1"):
            batch.replace(Score, [("new", "0.1", None), *ten("changed")[2:]])
        counts = batch.counts

    assert counts == Counts()
    assert versions(Score, "cve") == before


@pytest.mark.parametrize(("limit", "left"), [(0.1, 9), (0.3, 7), (0.7, 3), (1, 1)])
def test_as_many_rows_as_max_shrink_says_may_go(limit, left):
    upsert(Score, ten())

    assert replace(Score, ten()[:left], max_shrink=limit).removed == 10 - left


@pytest.mark.parametrize("limit", [-0.1, 1.01, 10])
def test_max_shrink_is_a_part(limit):
    with checkpoint() as batch, pytest.raises(ValueError, match="0 to 1"):
        batch.replace(Score, ten(), max_shrink=limit)


def test_a_model_with_gone_at_keeps_its_removed_rows_marked():
    upsert(Advisory, [("x", n, "t") for n in range(10)])

    counts = replace(Advisory, [("x", n, "t") for n in range(1, 10)])

    assert counts == Counts(unchanged=9, removed=1)
    assert advisories()[0] == ("t", True)
    assert advisories()[1] == ("t", False)


def test_a_marked_row_is_neither_marked_nor_counted_again():
    upsert(Advisory, [("x", n, "t") for n in range(10)])
    listed = [("x", n, "t") for n in range(1, 10)]
    replace(Advisory, listed)
    before = versions(Advisory, "number")

    counts = replace(Advisory, listed, max_shrink=0)

    assert counts == Counts(unchanged=9)
    assert versions(Advisory, "number") == before


def test_a_marked_row_keeps_its_time_when_others_go():
    upsert(Advisory, [("x", n, "t") for n in range(20)])
    replace(Advisory, [("x", n, "t") for n in range(1, 20)])
    before = versions(Advisory, "number")

    counts = replace(Advisory, [("x", n, "t") for n in range(2, 20)])

    assert counts == Counts(unchanged=18, removed=1)
    assert versions(Advisory, "number")[0] == before[0]


def test_rows_that_are_gone_do_not_weigh_in_max_shrink():
    upsert(Advisory, [("x", n, "t") for n in range(100)])
    replace(Advisory, [("x", n, "t") for n in range(10)], max_shrink=1)

    with pytest.raises(SnapshotRefused, match="2 of 10"):
        replace(Advisory, [("x", n, "t") for n in range(8)])


@pytest.mark.parametrize("load", [upsert, replace])
def test_a_row_that_comes_back_loses_its_mark_and_counts_as_updated(load):
    upsert(Advisory, [("x", n, "t") for n in range(10)])
    replace(Advisory, [("x", n, "t") for n in range(1, 10)])

    counts = load(Advisory, [("x", n, "t") for n in range(10)])

    assert counts == Counts(updated=1, unchanged=9)
    assert advisories()[0] == ("t", False)


def test_a_source_that_tells_what_is_gone_sets_the_mark_itself():
    rows = [{"source": "x", "number": n, "gone_at": at} for n, at in [(1, None), (2, "2026-01-01T00:00:00Z")]]
    upsert(Advisory, rows)

    counts = upsert(Advisory, rows)

    assert counts == Counts(unchanged=2)
    assert advisories() == {1: (None, False), 2: (None, True)}


def test_rows_that_a_source_of_marks_no_longer_lists_are_marked_too():
    rows = [{"source": "x", "number": n, "gone_at": "2026-01-01T00:00:00Z" if n == 1 else None} for n in range(3)]
    upsert(Advisory, rows)

    counts = replace(Advisory, rows[:2], max_shrink=0.5)

    assert counts == Counts(unchanged=2, removed=1)
    assert advisories() == {0: (None, False), 1: (None, True), 2: (None, True)}


def test_a_replace_within_a_part_of_the_table_misses_no_row_of_another_part():
    upsert(Advisory, [{"source": "Go", "number": n, "title": "a"} for n in (1, 2, 3)])
    upsert(Advisory, [{"source": "PyPI", "number": n, "title": "a"} for n in (4, 5, 6)])

    rows = [{"source": "Go", "number": n, "title": title} for n, title in ((1, "a"), (2, "b"), (7, "a"))]
    counts = replace(Advisory, rows, within={"source": "Go"}, max_shrink=0.5)

    assert counts == Counts(inserted=1, updated=1, unchanged=1, removed=1)
    assert {number for number, (_, gone) in advisories().items() if gone} == {3}


def test_without_gone_at_the_rows_of_the_part_alone_are_deleted():
    upsert(Score, [("a", "0.1", "x"), ("b", "0.2", "x"), ("c", "0.3", None)])

    counts = replace(Score, [("a", "0.1", "x")], within={"note": "x"}, max_shrink=0.5)

    assert counts == Counts(unchanged=1, removed=1)
    assert scores().keys() == {"a", "c"}
    assert replace(Score, [("d", "0.4", None)], within={"note": None}, max_shrink=1).removed == 1
    assert scores().keys() == {"a", "d"}


def test_max_shrink_is_judged_by_the_part():
    upsert(Score, [*((f"x{n}", "0.1", "x") for n in range(2)), *((f"y{n}", "0.1", "y") for n in range(98))])

    with pytest.raises(SnapshotRefused, match="1 of 2 rows no longer listed"):
        replace(Score, [("x0", "0.1", "x")], within={"note": "x"})


def test_a_part_that_is_no_fields_is_refused():
    with pytest.raises(LoadError, match=r"within='ecosystem' is no field of the model \(cve, epss, note\)"):
        replace(Score, [("a", "0.1", None)], within={"ecosystem": "Go"})


def test_a_row_moved_to_another_key_may_keep_its_unique_value():
    upsert(Counted, [("a", "1"), ("b", "2"), ("c", "3")], key="name")

    counts = replace(Counted, [("a", "9"), ("b", "2"), ("d", "3"), ("e", "1")], key="name", max_shrink=0.5)

    assert counts == Counts(inserted=2, updated=1, unchanged=1, removed=1)


def test_a_batch_sums_its_loads():
    with checkpoint() as batch:
        batch.upsert(Score, ten())
        batch.upsert(Advisory, [("x", 1, "t")])
        batch.replace(Score, ten()[1:])

    assert batch.counts == Counts(inserted=11, unchanged=9, removed=1)


def test_names_are_quoted_everywhere():
    execute('CREATE SCHEMA "odd schema"')
    create(Odd)

    replace(Odd, [{"select": "1", "value": "x"}, {"select": "1", "value": "y"}])
    counts = replace(Odd, [{"select": "1", "value": "z"}])
    execute('DROP SCHEMA "odd schema" CASCADE')

    assert counts == Counts(updated=1)


def test_another_constraint_is_an_error_that_names_it_and_quotes_no_row():
    upsert(Counted, [("a", "taken secret")], key="name")

    with pytest.raises(LoadError, match="counted_label") as caught:
        upsert(Counted, [("b", "taken secret")], key="name")

    assert "secret" not in str(caught.value)


def test_a_row_that_another_writer_inserts_meanwhile_is_brought_up_to_date(postgres_url):
    counts = []

    def load():
        counts.append(upsert(Score, [("a", "0.3", "ours"), ("b", "0.2", "same"), ("c", "0.4", None)]))
        database.close()

    with psycopg.connect(postgres_url) as other:
        other.execute("INSERT INTO score VALUES ('a', 0.1, 'theirs'), ('b', 0.2, 'same')")
        ours = threading.Thread(target=load)
        ours.start()
        wait_for_a_lock()
        other.commit()
        ours.join(60)

    assert counts == [Counts(inserted=1, updated=1, unchanged=1)]
    assert scores() == {"a": (0.3, "ours"), "b": (0.2, "same"), "c": (0.4, None)}


def test_a_key_taken_by_a_row_that_cannot_be_seen_is_denied():
    upsert(Score, [("hidden", "0.1", "hide"), ("seen", "0.1", None)])
    execute(
        "ALTER TABLE score ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE score FORCE ROW LEVEL SECURITY",
        "CREATE POLICY seen ON score USING (note IS DISTINCT FROM 'hide')",
    )

    counts = upsert(Score, [("hidden", "0.2", None), ("seen", "0.2", None), ("new", "0.2", None)])

    execute("ALTER TABLE score DISABLE ROW LEVEL SECURITY")
    assert counts == Counts(inserted=1, updated=1, denied=1)
    assert scores()["hidden"] == (0.1, "hide")


@pytest.mark.parametrize("load", [upsert, replace])
def test_a_first_load_is_fast_though_the_planner_was_told_that_the_table_is_empty(load):
    # Then it thinks that to read the table for each row of the load costs nothing, and each row makes it longer.
    database.execute_sql("VACUUM ANALYZE score")

    with checkpoint() as batch:
        database.execute_sql("SET LOCAL statement_timeout = '10 s'")
        counts = getattr(batch, load.__name__)(Score, [(f"CVE-{n}", "0.5", None) for n in range(50_000)])

    assert counts == Counts(inserted=50_000)


def test_a_slow_source_is_not_cut_off_as_idle_and_the_limit_stands_afterwards():
    def slowly():
        for row in ten()[:2]:
            time.sleep(0.6)
            yield row

    with checkpoint(idle_limit_ms=500) as batch:
        counts = batch.upsert(Score, slowly())
        limit = query("SHOW idle_in_transaction_session_timeout")

    assert counts == Counts(inserted=2)
    assert limit == [("500ms",)]


def test_an_error_of_the_source_comes_through_and_nothing_is_written():
    def broken():
        yield from ten()
        raise ConnectionResetError("the source hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        upsert(Score, broken())

    assert scores() == {}
    assert upsert(Score, ten()) == Counts(inserted=10)


def test_memory_stays_flat_over_many_rows():
    rows = ({"cve": f"CVE-{n:07}", "epss": "0.5", "note": "x" * 100} for n in range(200_000))

    with checkpoint() as batch:
        tracemalloc.start()
        counts = batch.upsert(Score, rows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert counts == Counts(inserted=200_000)
    assert peak < 2_000_000


def wait_for_a_lock():
    for _ in range(3000):
        if query("SELECT FROM pg_stat_activity WHERE application_name = 'a load' AND wait_event_type = 'Lock'"):
            database.close()
            return
        time.sleep(0.01)
    pytest.fail("the load waits for nobody")
