"""What a run shows its author, and the ledger of a run that has not ended: it stands there if the process is killed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from collectkit import collector, cron
from collectkit.database import ledger_db
from collectkit.windows import Window

HOUR = timedelta(hours=1)


@pytest.fixture
def seen(db):
    """Run a function as a collector, and return what it returned, each time."""

    def run_it(fn, times=1, **options):
        kept = []
        declared = collector(periodic=cron("0 * * * *"), name="tests.seen", **options)(lambda run: kept.append(fn(run)))
        db.enrol(declared)
        outcomes = [declared.run_now() for _ in range(times)]
        assert [outcome.reason for outcome in outcomes] == [None] * times
        return kept if times > 1 else kept[0]

    return run_it


def test_a_run_knows_which_due_time_it_serves_and_when_it_must_end(seen):
    def facts(run):
        ((id_, name, due, began),) = ledger_db.run(
            "SELECT id, collector, scheduled_for, started_at FROM collectkit.run"
        )
        assert (run.id, run.name, run.scheduled_for, run.started_at) == (id_, name, due, began)
        assert (run.key, run.attempt, run.dry_run, run.deadline) == (None, 1, False, began + HOUR)
        assert repr(run) == f"<Run {id_} of tests.seen, attempt 1>"
        return due

    assert seen(facts, deadline=HOUR) is not None


def test_windows_end_where_the_run_began_if_nothing_else_is_said(seen):
    def windows(run):
        start = run.started_at - 2 * HOUR
        by_default = list(run.windows(start, HOUR))
        with_overlap = list(run.windows(start, 2 * HOUR, HOUR, until=start + HOUR))
        return start, by_default, with_overlap

    start, by_default, with_overlap = seen(windows)

    assert by_default == [Window(start, start + HOUR), Window(start + HOUR, start + 2 * HOUR)]
    assert with_overlap == [Window(start - HOUR, start + HOUR)]


def test_data_that_were_complete_once_stay_so_in_the_eyes_of_the_run(seen):
    def steps(run):
        states = [run.is_complete]
        run.store(run.started_at, complete=False)
        states.append(run.is_complete)
        run.store(run.started_at)
        states.append(run.is_complete)
        run.store(run.started_at, complete=False)
        return [*states, run.is_complete]

    assert seen(steps, times=2) == [[False, False, True, True], [True, True, True, True]]


def test_a_key_that_was_never_there_can_be_removed(seen):
    def remove(run):
        run.store(run.started_at, meta_attr={"never": None, "kept": 1})
        return run.meta_attr

    assert seen(remove) == {"kept": 1}


def test_a_checkpoint_notes_the_groups_and_counts_that_it_was_made_with(seen):
    def look(run):
        run.store(run.started_at)
        return ledger_db.run(
            "SELECT outcome, acl_read, acl_write, counts->>'inserted', until_after FROM collectkit.run"
        )

    ((outcome, read, write, inserted, until),) = seen(look, acl="public")

    assert (outcome, inserted) == ("RUNNING", "0")
    assert read == ["public"]
    assert write
    assert until is not None


def test_a_dry_run_leaves_its_groups_in_the_history_though_no_checkpoint_of_it_stays(seen):
    seen(lambda run: run.store(run.started_at), acl="public", dry_run=True)

    ((dry, read),) = ledger_db.run("SELECT dry_run, acl_read FROM collectkit.run")
    assert (dry, read) == (True, ["public"])


def test_what_a_run_logs_carries_its_collector_and_number(seen, caplog):
    number = seen(lambda run: run.log.warning("odd") or run.id)

    (record,) = [each for each in caplog.records if each.message == "odd"]
    assert (record.name, record.collector, record.run) == ("tests.seen", "tests.seen", number)
