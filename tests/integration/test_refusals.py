"""What a checkpoint refuses, word for word: who, what, and what to do now."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from collectkit import collector, cron
from collectkit.database import clock, ledger_db
from collectkit.errors import CheckpointRefused, LeaseLost

MINUTE = timedelta(minutes=1)
REFUSED = "collector 'tests.refused': checkpoint refused, nothing was written: "


@pytest.fixture
def run_of(db):
    """Run a function as a collector; whatever it asserts holds."""

    def run_it(fn):
        declared = collector(periodic=cron("0 * * * *"), name="tests.refused")(fn)
        db.enrol(declared)
        return declared.run_now()

    return run_it


def refusal(act, *arguments, **options):
    with pytest.raises(CheckpointRefused) as caught:
        act(*arguments, **options)
    assert caught.value.collector == "tests.refused"
    return str(caught.value).removeprefix(REFUSED)


def test_a_watermark_is_refused_with_both_times(run_of):
    def stray(run):
        run.store(run.started_at)
        stored, naive, late = run.updated_until_dt, datetime(2026, 1, 1), clock() + timedelta(hours=1)  # noqa: DTZ001

        assert refusal(run.store, naive) == "the watermark 2026-01-01T00:00:00 has no time zone: give it one"
        future = refusal(run.store, late)
        assert future.startswith(f"the watermark {late.isoformat()} is later than the database's clock (")
        assert future.endswith("): it says what is in, not what is planned")
        early = stored - MINUTE - timedelta(microseconds=1)
        assert refusal(run.store, early) == (
            f"the watermark {early.isoformat()} is before the stored one ({stored.isoformat()}): it never goes back by"
            " itself"
        )
        run.store(stored - MINUTE)
        assert run.updated_until_dt == stored

    assert run_of(stray).reason is None


def test_complete_data_without_a_watermark_are_refused(run_of):
    def incomplete(run):
        assert refusal(run.store) == "complete data need a watermark: give updated_until_dt, or say complete=False"
        run.store(complete=False)
        run.store(run.started_at, complete=False)
        run.store()
        assert run.is_complete

    assert run_of(incomplete).reason is None


def test_a_checkpoint_inside_another_is_refused_and_the_outer_one_stands(run_of):
    def nested(run):
        with run.checkpoint(run.started_at):
            assert refusal(run.store, run.started_at) == "another checkpoint of this run is still open"

    assert run_of(nested).reason is None
    assert ledger_db.run("SELECT data_state FROM collectkit.collector") == [("COMPLETE",)]


def test_a_lost_lease_says_which_run_and_what_follows(run_of):
    said = []

    def robbed(run):
        ledger_db.run("UPDATE collectkit.collector SET fence = fence + 1")
        try:
            run.store(run.started_at)
        except LeaseLost as error:
            said.append(str(error))
            raise

    outcome = run_of(robbed)

    (words,) = said
    assert words == (
        "collector 'tests.refused' lost its lease (run 1, fence 1): its transaction was rolled back, the next run goes"
        " on from the last checkpoint"
    )
    assert (outcome.outcome, outcome.reason) == ("LOST", words)
