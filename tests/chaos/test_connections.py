"""Connections that die while nobody looks, and statements that are carried out without an answer."""

from __future__ import annotations

import peewee

from collectkit import Model, collector, cron
from collectkit.database import ledger_db

HOURLY = cron("0 * * * *")


class Mark(Model):
    id = peewee.IntegerField(primary_key=True)
    times = peewee.IntegerField(default=1)


def enrolled(db, fn, **options):
    declared = collector(**{"periodic": HOURLY, "data_models": [Mark], "name": "tests.marks"} | options)(fn)
    db.enrol(declared)
    return declared


def one(what):
    return ledger_db.run(f"SELECT {what}")[0][0]


def test_a_nudge_is_not_wasted_on_a_connection_that_died_while_it_was_idle(db, proxy):
    marks = enrolled(db, lambda run: run.store(run.started_at))
    marks()

    proxy.cut()
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp()")
    proxy.cut()
    marks()

    assert one("count(*) FROM collectkit.run WHERE outcome = 'OK'") == 2


def test_a_run_may_begin_with_a_read_after_its_connection_died_while_it_was_idle(db, proxy):
    marks = enrolled(db, lambda _: str(Mark.select().count()))
    assert marks.run_now().outcome == "OK"

    proxy.cut()
    outcome = marks.run_now()

    assert (outcome.outcome, outcome.reason) == ("OK", None)


def test_after_a_commit_without_an_answer_a_run_can_write_no_more(db, proxy, monkeypatch):
    def stubborn(run):
        for _ in range(3):
            try:
                with run.checkpoint(run.started_at):
                    again = {Mark.times: Mark.times + 1}
                    Mark.insert(id=1).on_conflict(conflict_target=[Mark.id], update=again).execute()
            except peewee.OperationalError:
                continue

    monkeypatch.setattr("collectkit.run.reached", lambda point, _: point == "commit.before" and proxy.lose_answer())
    outcome = enrolled(db, stubborn).run_now()

    assert outcome.outcome == "FAILED"
    assert "whether the last checkpoint was committed is not known" in outcome.reason
    assert one("times FROM mark") == 1


def test_followers_are_due_by_a_commit_even_if_its_answer_is_lost(db, proxy, monkeypatch):
    def fill(run):
        with run.checkpoint(run.started_at):
            Mark.insert(id=1).execute()

    marks = enrolled(db, fill)
    db.enrol(marks, collector(after=[marks], name="tests.follower")(lambda _: None))
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = 'infinity' WHERE name = 'tests.follower'")

    monkeypatch.setattr("collectkit.run.reached", lambda point, _: point == "commit.before" and proxy.lose_answer())
    outcome = marks.run_now()

    assert outcome.outcome == "FAILED"
    assert one("next_due_at <= clock_timestamp() FROM collectkit.collector WHERE name = 'tests.follower'")


def test_a_close_without_an_answer_is_known_for_what_it_was(db, proxy):
    outcome = enrolled(db, lambda _: proxy.lose_answer()).run_now()

    assert (outcome.outcome, outcome.reason) == ("OK", None)
    assert one("outcome FROM collectkit.run") == "OK"
