"""How far a run is: shown while it runs, kept when it has ended, and never a reason for it to fail."""

from __future__ import annotations

import psycopg
import pytest

from collectkit import collector, cron, read_status
from collectkit.database import ledger_db
from collectkit.status import Progress

NAME = "tests.counting"


@pytest.fixture
def running(db):
    def run_it(fn):
        declared = collector(periodic=cron("0 * * * *"), name=NAME)(fn)
        db.enrol(declared)
        return declared.run_now()

    return run_it


def shown():
    return read_status()[NAME]


def test_the_status_says_how_far_a_run_is(running):
    seen = []

    def count(run):
        run.progress(2_000, 336_539)
        seen.append(shown())

    running(count)

    assert seen[0].progress == Progress(2_000, 336_539)
    assert seen[0].reason.startswith("held by run ")
    assert seen[0].reason.endswith(": 2,000 of 336,539 done (0%)")


def test_a_run_that_does_not_know_the_total_says_what_it_has_done(running):
    seen = []

    def count(run):
        run.progress(7)
        seen.append(shown())

    running(count)

    assert seen[0].progress == Progress(7, None)
    assert seen[0].reason.endswith(": 7 done")


def test_a_run_that_says_nothing_has_no_progress(running):
    running(lambda run: run.store(updated_until_dt=run.started_at))

    assert shown().progress is None


def test_how_far_it_came_stays_known(running):
    def fail(run):
        run.progress(3, 10)
        raise ValueError("in the middle")

    running(fail)

    assert shown().progress == Progress(3, 10)


def test_it_is_written_once_in_a_while_and_the_end_always(running, monkeypatch):
    monkeypatch.setattr("collectkit.run._PROGRESS_INTERVAL", 60)  # however long a busy machine takes for these
    seen = []

    def count(run):
        for done in (1, 2, 3):
            run.progress(done, 4)
        seen.append(shown().progress)
        run.progress(4, 4)
        seen.append(shown().progress)

    running(count)

    assert seen == [Progress(1, 4), Progress(4, 4)]


def test_it_can_be_said_inside_a_checkpoint_and_is_seen_before_the_commit(running):
    seen = []

    def count(run):
        with run.checkpoint(updated_until_dt=run.started_at):
            run.progress(1, 2)
            seen.append(shown().progress)

    assert running(count).outcome == "OK"
    assert seen == [Progress(1, 2)]


def test_a_database_that_drops_the_connection_is_no_error_of_the_run(running, db):
    def count(run):
        with psycopg.connect(db.settings.database_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'collectkit ledger' AND datname = current_database()"
            )
        # Written on a new connection if the end of the old one has been heard of by now, else left out.
        run.progress(1, 2)
        run.store(updated_until_dt=run.started_at)

    assert running(count).outcome == "OK"


def test_a_schema_that_lags_behind_is_no_error_of_the_run_and_is_not_asked_each_second(running, caplog):
    def count(run):
        ledger_db.run("ALTER TABLE collectkit.run RENAME COLUMN done TO had_done")
        run.progress(1, 10)
        run._next_progress -= 2
        run.progress(2, 10)
        ledger_db.run("ALTER TABLE collectkit.run RENAME COLUMN had_done TO done")
        run.store(updated_until_dt=run.started_at)

    assert running(count).outcome == "OK"
    assert caplog.text.count("was not written down") == 1


def test_a_run_that_somebody_else_has_closed_says_no_more(running):
    def count(run):
        ledger_db.run("UPDATE collectkit.run SET outcome = 'LOST', finished_at = clock_timestamp()")
        run.progress(1, 2)

    running(count)

    assert shown().progress is None
