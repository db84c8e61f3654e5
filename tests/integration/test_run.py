"""A run as its author sees it: checkpoints, the watermark's rules, dry runs, failures; against real PostgreSQL."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import peewee
import pytest

from collectkit import CollectkitError, Model, collector, cron, freshness, read_status
from collectkit.database import clock, ledger_db
from collectkit.errors import CheckpointRefused, DeclarationError

HOURLY = cron("0 * * * *")


class Thing(Model):
    id = peewee.IntegerField(primary_key=True)
    name = peewee.TextField()


ROWS = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]


@pytest.fixture
def running(db):
    """Enrol a function as a collector and run it once."""

    def run_it(fn, **options):
        declared = collector(**({"periodic": HOURLY, "data_models": [Thing], "name": "tests.things"} | options))(fn)
        db.enrol(declared)
        return declared.run_now()

    return run_it


def row(what, name="tests.things"):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector WHERE name = %(name)s", {"name": name})[0][0]


def test_rows_and_watermark_are_committed_together(running):
    def fill(run):
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr={"version": 1}) as batch:
            return str(batch.upsert(Thing, ROWS))

    outcome = running(fill)

    assert (outcome.outcome, outcome.counts.inserted) == ("OK", 2)
    assert row("data_state") == "COMPLETE"
    assert row("updated_until_dt") == outcome.updated_until
    assert row("meta_attr") == {"version": 1}


def test_an_exception_inside_a_checkpoint_leaves_neither_rows_nor_watermark(running):
    def fail(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Thing, ROWS)
            raise ValueError("in the middle")

    outcome = running(fail)

    assert (outcome.outcome, outcome.reason) == ("FAILED", "ValueError: in the middle")
    assert Thing.select().count() == 0
    assert row("updated_until_dt") is None
    assert row("last_error") == "ValueError: in the middle"


def test_what_an_earlier_checkpoint_committed_survives_a_later_failure(running):
    def half(run):
        with run.checkpoint(updated_until_dt=run.started_at - timedelta(days=1), complete=False) as batch:
            batch.upsert(Thing, ROWS[:1])
        raise ValueError("after the first")

    outcome = running(half)

    assert outcome.outcome == "FAILED"
    assert Thing.select().count() == 1
    assert row("data_state") == "PARTIAL"


def test_a_write_outside_a_checkpoint_is_refused(running):
    outcome = running(lambda _run: Thing.create(id=1, name="loose"))

    assert outcome.outcome == "FAILED"
    assert "read-only" in outcome.reason
    assert Thing.select().count() == 0


def test_plain_peewee_writes_work_inside_a_checkpoint_and_pull_followers(running, db):
    @collector(after=["tests.things"], name="tests.follower")
    def follower(run):
        pass

    db.enrol(follower)
    follower.run_now()
    assert row("next_due_at = 'infinity'", "tests.follower")

    def write(run):
        with run.checkpoint(updated_until_dt=run.started_at):
            Thing.create(id=7, name="seven")

    assert running(write).outcome == "OK"
    assert row("next_due_at <= clock_timestamp()", "tests.follower")


def test_a_checkpoint_that_changes_nothing_pulls_nobody(running, db):
    @collector(after=["tests.things"], name="tests.follower")
    def follower(run):
        pass

    db.enrol(follower)
    follower.run_now()

    assert running(lambda run: run.store(updated_until_dt=run.started_at)).outcome == "OK"
    assert row("next_due_at = 'infinity'", "tests.follower")


def test_a_dry_run_reports_counts_and_changes_nothing(running):
    seen = []

    def fill(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Thing, ROWS)
        seen.append(run.updated_until_dt)

    outcome = running(fill, dry_run=True)

    assert (outcome.outcome, outcome.counts.inserted) == ("OK", 2)
    assert seen == [outcome.updated_until]
    assert Thing.select().count() == 0
    assert (row("data_state"), row("updated_until_dt")) == ("EMPTY", None)
    assert ledger_db.run("SELECT dry_run, counts->>'inserted' FROM collectkit.run") == [(True, "2")]


@pytest.mark.parametrize("dry_run", [True, False])
def test_data_are_complete_by_the_watermark_that_an_earlier_checkpoint_of_the_run_gave(running, dry_run):
    def step(run):
        run.store(updated_until_dt=run.started_at, complete=False)
        run.store()

    outcome = running(step, dry_run=dry_run)

    assert (outcome.outcome, outcome.reason) == ("OK", None), outcome
    assert (row("data_state"), row("updated_until_dt") is None) == (("EMPTY", True) if dry_run else ("COMPLETE", False))


@pytest.mark.parametrize(
    ("until", "words"),
    [
        (datetime(2026, 1, 1), "no time zone"),  # noqa: DTZ001
        (datetime.now(UTC) + timedelta(days=366), "later than the database's clock"),
        (datetime(2020, 1, 1, tzinfo=UTC), "never goes back"),
    ],
)
def test_a_watermark_that_breaks_a_rule_is_refused_in_words(running, until, words):
    caught = []

    def stray(run):
        run.store(updated_until_dt=run.started_at)
        try:
            with run.checkpoint(updated_until_dt=until) as batch:
                batch.upsert(Thing, ROWS)
        except CheckpointRefused as error:
            caught.append(str(error))

    running(stray)

    assert words in caught[0]
    assert Thing.select().count() == 0


def test_clocks_may_differ_by_a_minute(running):
    def skewed(run):
        run.store(updated_until_dt=clock() + timedelta(seconds=30))
        before = run.updated_until_dt
        run.store(updated_until_dt=before - timedelta(seconds=30))
        assert run.updated_until_dt == before <= clock()

    assert running(skewed).outcome == "OK"


def test_complete_data_need_a_watermark(running):
    assert "complete data need a watermark" in running(lambda run: run.store()).reason


def test_meta_attr_merges_and_none_removes(running):
    def twice(run):
        run.store(updated_until_dt=run.started_at, meta_attr={"a": 1, "b": 2})
        run.store(meta_attr={"b": None, "c": 3})
        assert run.meta_attr == {"a": 1, "c": 3}

    assert running(twice).outcome == "OK"
    assert row("meta_attr") == {"a": 1, "c": 3}


@pytest.mark.parametrize("value", ["a\0b", "\ud800", float("nan"), datetime(2026, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_not_json_is_refused_in_words_and_the_run_may_go_on(db, value, dry_run):
    def odd(run):
        run.store(run.started_at, meta_attr={"version": 1})
        with run.checkpoint(meta_attr={"version": value}) as batch:
            batch.upsert(Thing, ROWS)

    def said(run):
        with pytest.raises(CheckpointRefused, match="nothing was written: meta_attr takes what JSON has, without NUL"):
            odd(run)
        run.store(meta_attr={"more": 2})
        assert run.meta_attr == {"version": 1, "more": 2}

    declared = collector(periodic=HOURLY, data_models=[Thing], name="tests.things")(said)
    db.enrol(declared)

    assert declared.run_now(dry_run=dry_run).outcome == "OK"
    assert Thing.select().count() == 0
    assert row("meta_attr") == ({} if dry_run else {"version": 1, "more": 2})


def test_a_run_that_was_closed_by_somebody_else_commits_nothing(running):
    def robbed(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Thing, ROWS)
            ledger_db.run("UPDATE collectkit.collector SET fence = fence + 1")

    outcome = running(robbed)

    assert outcome.outcome == "LOST"
    assert "lost its lease" in outcome.reason
    assert Thing.select().count() == 0


def test_a_run_past_its_deadline_is_interrupted_and_failed(running):
    def hang(run):
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            time.sleep(0.01)

    outcome = running(hang, deadline=timedelta(seconds=0.3))

    assert outcome.outcome == "FAILED"
    assert "deadline" in outcome.reason


def test_a_call_is_a_nudge_that_does_nothing_when_nothing_is_due(db):
    ran = []

    @collector(periodic=cron("0 0 1 1 *"), name="tests.nudged")
    def nudged(run):
        ran.append(run.id)

    db.enrol(nudged)

    nudged()
    nudged()

    assert len(ran) == 1


def test_a_blocked_collector_is_not_run_and_says_by_whom(db):
    @collector(periodic=HOURLY, name="tests.base")
    def base(run):
        run.store(updated_until_dt=run.started_at)

    @collector(periodic=HOURLY, depends_on=[base], name="tests.derived")
    def derived(run):
        pass

    db.enrol(base, derived)

    outcome = derived.run_now()
    assert outcome.outcome == "NOT_CLAIMED"
    assert outcome.reason.startswith("blocked by tests.base")
    assert read_status()["tests.derived"].state == "BLOCKED"

    base.run_now()
    assert derived.run_now().outcome == "OK"


def test_each_key_is_a_collector_of_its_own(db):
    seen = []

    @collector(periodic=HOURLY, each=lambda: ["a", "b"], name="tests.each")
    def each(run):
        seen.append(run.key)
        run.store(updated_until_dt=run.started_at)

    db.enrol(each)
    each()

    assert sorted(seen) == ["a", "b"]
    assert set(read_status()) == {"tests.each[a]", "tests.each[b]"}
    assert freshness("each").is_complete


def test_freshness_is_the_truth_between_ticks(running):
    running(lambda run: run.store(updated_until_dt=run.started_at))

    fresh = freshness(Thing)
    assert fresh.is_up2date
    assert fresh.is_complete
    # Stale after the second tick that could have brought news, never before the first.
    assert fresh.stale_at == HOURLY.next_tick(HOURLY.next_tick(fresh.updated_until + timedelta(seconds=60)))

    ledger_db.run("UPDATE collectkit.collector SET stale_at = clock_timestamp() - interval '1 s'")
    assert not freshness("things").is_up2date


def test_a_declaration_that_could_never_run_is_refused_at_import():
    with pytest.raises(DeclarationError, match="it would never run") as caught:
        collector(max_attempts=0, name="tests.never")(lambda _run: None)

    assert len(caught.value.faults) == 2


def test_a_name_that_looks_like_an_instance_is_refused_at_import():
    with pytest.raises(DeclarationError, match="a name has no"):
        collector(periodic=HOURLY, name="tests.one[two]")(lambda _run: None)


def test_an_unknown_instance_is_named(db):
    @collector(periodic=HOURLY, each=lambda: ["a"], name="tests.keys")
    def keys(run):
        pass

    with pytest.raises(CollectkitError, match="has no instance 'z'"):
        keys.run_now(key="z")


def test_freshness_follows_a_schedule_that_was_deployed_while_the_run_was_on_its_way(running):
    def redeployed(run):
        run.store(updated_until_dt=run.started_at)
        ledger_db.run("UPDATE collectkit.collector SET schedule = '0 0 * * *', tz = 'Asia/Kolkata'")
        run.store(updated_until_dt=run.started_at)

    daily = cron("0 0 * * *", "Asia/Kolkata")

    assert running(redeployed).outcome == "OK"

    assert row("stale_at") == daily.next_tick(daily.next_tick(row("updated_until_dt") + timedelta(seconds=60)))
