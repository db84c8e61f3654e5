"""The laws that read a database can fail: each is broken by one thing that was put there, and is taken away again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest

from collectkit.groups import group_id
from collectkit.settings import Settings
from tests.chaos.laws import MAX_ATTEMPTS, history_follows_the_rules, one_committer, rows_are_for_their_groups
from tests.chaos.soak import Plan, Seen, Soak
from tests.chaos.soak_laws import oracle, tables_are_the_sources
from tests.chaos.soaked.plan import DERIVED, SOURCES
from tests.chaos.soaked.source import generate
from tests.chaos.subjects.sizes import GROUPS

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE, TWO = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


def at(seconds):
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def lane(one_lane):
    """A lane without a past, until the test is over."""
    with one_lane.connection.transaction(force_rollback=True):
        one_lane.sql("DELETE FROM collectkit.run")
        one_lane.sql("DELETE FROM witness.change")
        yield one_lane


def change(lane, fence, holder, before, until=(0, 0)):
    lane.sql(
        "INSERT INTO witness.change (name, fence, holder, holder_before, until_before, until)"
        " VALUES ('forged', %s, %s, %s, %s, %s)",
        fence,
        holder,
        before,
        *map(at, until),
    )


def run(lane, **columns):
    names = ", ".join(columns)
    (found,) = lane.sql(
        f"INSERT INTO collectkit.run (collector, trigger, {names})"
        f" VALUES ('chaos.snap', 'due', {', '.join(['%s'] * len(columns))}) RETURNING id",
        *columns.values(),
    )
    return found[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((2, TWO, ONE), "from a holder that nobody had closed"),
        ((1, None, TWO), "follows a holder that nobody saw"),
        ((3, ONE, ONE), "fence 3 follows 1"),
        ((1, ONE, ONE, (6, 5)), "the watermark went back"),
    ],
)
def test_a_change_that_is_not_its_holders_breaks_a_law(lane, wrong, words):
    change(lane, 1, ONE, None)
    change(lane, 1, ONE, ONE, (0, 5))
    assert one_committer(lane) == []

    change(lane, *wrong)

    assert words in one_committer(lane)[0]


def test_rows_without_a_checkpoint_break_a_law(lane):
    number = run(lane, fence=1, attempt=1, started_at=NOON)
    assert one_committer(lane) == []

    lane.sql("INSERT INTO appended (record, value, run) VALUES (1, 1, %s)", number)

    assert one_committer(lane) == [f"run {number} committed 1 rows that no checkpoint of its fence covers"]


LOST = {"fence": 1, "attempt": 1, "outcome": "LOST", "scheduled_for": at(0), "started_at": at(5), "finished_at": at(9)}
NEXT = {"fence": 2, "attempt": 2, "scheduled_for": at(0), "started_at": at(10)}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"fence": 3}, "a fence is missing"),
        ({}, {"started_at": at(8)}, "began before the other had ended"),
        ({}, {"attempt": 1}, "its attempt should be 2"),
        ({"attempt": MAX_ATTEMPTS}, {}, "its attempt should be 1"),
        ({"outcome": "HANDED_OVER"}, {}, "its attempt should be 1"),
        ({"outcome": "OK"}, {}, "its attempt should be 1"),
        ({}, {"scheduled_for": at(1)}, "does not serve the due time that was given back"),
        ({}, {"scheduled_for": None}, "does not serve the due time that was given back"),
        ({"until_after": at(7)}, {}, "did not begin where the other had stopped"),
    ],
)
def test_a_run_that_does_not_follow_from_the_one_before_breaks_a_law(lane, before, after, words):
    run(lane, **(LOST | before))
    run(lane, **(NEXT | after))

    (broken,) = history_follows_the_rules(lane)
    assert words in broken


def test_a_run_that_follows_from_the_one_before_breaks_none(lane):
    run(lane, **LOST)
    run(lane, **NEXT)

    assert history_follows_the_rules(lane) == []


# Committed, for the law looks with two connections, and one of them is the superuser's.
@pytest.fixture
def grouped(one_lane):
    """A lane with a table that has one row, with the right groups and no policy at all."""
    one_lane.sql("CREATE TABLE public.grouped (acl_read uuid[], acl_write uuid[])")
    one_lane.sql("INSERT INTO public.grouped VALUES (%s, %s)", *ids(GROUPS.read, GROUPS.write))
    yield one_lane
    one_lane.sql("DROP TABLE public.grouped")


def ids(*groups):
    return [[group_id(name, Settings().acl_namespace) for name in names] for names in groups]


def test_rows_that_are_seen_without_groups_or_have_others_break_a_law(grouped):
    def broken():
        return rows_are_for_their_groups(grouped, ["public.grouped"], GROUPS)

    assert broken() == ["public.grouped: without groups 1 rows are seen"]
    grouped.sql("ALTER TABLE public.grouped ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    assert broken() == []
    with psycopg.connect(grouped.servers.address_of_superuser(grouped.database)) as superuser:
        superuser.execute("INSERT INTO public.grouped VALUES (%s, %s)", ids(GROUPS.read, ["others"]))
    assert broken() == ["public.grouped: 1 rows have other groups"]


def test_of_what_is_overdue_the_time_since_its_last_run_counts_and_that_of_lost_runs_is_told_apart(lane):
    soak = Soak(lane, Plan(1, seconds=1, steps=3, per_step=5, faults={}, cuts=0, workers=0, schedulers=0))
    ((fence,),) = lane.sql(
        "UPDATE collectkit.collector SET next_due_at = clock_timestamp() - interval '100 s'"
        " WHERE name = 'chaos.snap' RETURNING fence"
    )
    soak._look()
    assert 100 <= soak.seen.longest_overdue == soak.seen.oldest_due

    run(
        lane,
        fence=fence,
        attempt=1,
        outcome="LOST",
        started_at=NOON,
        finished_at=datetime.now(UTC) - timedelta(seconds=5),
    )
    soak.seen, soak._next_sample = Seen(soak.plan), 0
    soak._look()
    assert 5 <= soak.seen.longest_overdue < 60
    assert soak.seen.oldest_due >= 100


def test_each_table_of_the_soak_is_compared_with_its_source(lane, home):
    seen = Seen(Plan(1, seconds=1, steps=3, per_step=5, faults={}, cuts=0))
    site = SimpleNamespace(home=home, connection=lane.connection)
    lane.sql("CREATE TEMP TABLE appended (stream int, seq int, value int)")
    lane.sql("CREATE TEMP TABLE event (stream int, id int, value int)")
    for name in SOURCES:
        generate(home / name, name, 3, 5)
    tables = {}
    for name in [*SOURCES, *DERIVED]:
        kind, _, number = name.partition("_")
        tables[name] = table = {"append": "appended", "window": "event"}.get(kind, f"{kind}{number}")
        if kind == "snapshot":
            lane.sql(f"CREATE TEMP TABLE {table} (id int, value int)")
        elif name in DERIVED:
            lane.sql(f"CREATE TEMP TABLE {table} (part int, rows int, total bigint)")
        of = (int(number),) if kind in {"append", "window"} else ()
        for row in oracle(site, seen, kind, int(number)):
            lane.sql(f"INSERT INTO {table} VALUES ({', '.join(map(str, of + row))})")
    assert tables_are_the_sources(site, seen) == []

    for table in set(tables.values()):
        lane.sql(f"UPDATE {table} SET {'total = total' if table[:5] in {'tally', 'grand'} else 'value = value'} + 1")

    broken = tables_are_the_sources(site, seen)
    assert {words.partition(":")[0] for words in broken} == set(tables)
