"""The wrong variants: each is a mistake that was made somewhere, or that a reader of the core would make first."""

from __future__ import annotations

from tests.chaos.planted import Bug

_CLOSING, _RUN, _STATEMENTS = "closing.py", "run.py", "statements.py"
_ANEW = '                database.commit()\n                database.begin("READ COMMITTED READ WRITE")\n'
_FENCING = "tests/integration/test_fencing.py"
_RECOVERY = "tests/acceptance/test_recovery.py"
_ZOMBIES = "tests/chaos/test_crashes.py::test_a_holder_that_wakes_up_beyond_its_lease_is_refused_and_holds_nobody_back"
_RESTART = "tests/chaos/test_recovery_time.py::test_a_collector_whose_worker_was_killed_runs_again"
_YEAR = "tests/chaos/test_schedule_year.py"
_MACHINES = "tests/chaos/test_state_machines.py"
_SOAK = "tests/chaos/test_soak.py::test_after_every_kind_of_fault_the_tables_are_those_of_the_sources"

BUGS = (
    Bug(
        "a checkpoint without a guard",
        _STATEMENTS,
        (
            (
                " AND fence = %(fence)s AND holder = %(token)s\n  RETURNING updated_until_dt,",
                "\n  RETURNING updated_until_dt,",
            ),
        ),
        (
            "checkpoint.before/stop/append",
            _ZOMBIES,
            "tests/integration/test_run.py::test_a_run_that_was_closed_by_somebody_else_commits_nothing",
        ),
    ),
    Bug(
        "a guard without the holder",
        _STATEMENTS,
        ((" AND holder = %(token)s\n  RETURNING updated_until_dt,", "\n  RETURNING updated_until_dt,"),),
        (f"{_FENCING}::test_a_database_from_yesterday_repeats_fences_and_runs_but_no_holder",),
    ),
    Bug(
        "now() for clock_timestamp() in the claim",
        _STATEMENTS,
        (
            (
                "holder = %(token)s, lease_until = clock_timestamp() + %(ttl)s,",
                "holder = %(token)s, lease_until = now() + %(ttl)s,",
            ),
        ),
        (f"{_FENCING}::test_a_claim_that_waited_for_a_lock_has_its_whole_lease",),
    ),
    Bug(
        "a claim that ignores the holder",
        _STATEMENTS,
        (("  c.holder IS NULL AND c.enabled", "  c.enabled"),),
        (f"{_FENCING}::test_what_has_lapsed_cannot_be_claimed_before_it_is_closed",),
    ),
    Bug(
        "a claim that closes what has lapsed, in a sibling CTE",
        _STATEMENTS,
        (
            (
                "OR %(force)s) AND {_STARTABLE}\n     FOR NO KEY UPDATE OF c),",
                """OR %(force)s) AND (c.holder IS NULL OR c.lease_until < clock_timestamp()) AND c.enabled
     FOR NO KEY UPDATE OF c),
l AS (
  UPDATE collectkit.run r SET outcome = 'LOST', finished_at = clock_timestamp()
    FROM p WHERE r.collector = p.name AND r.outcome = 'RUNNING'),""",
            ),
        ),
        (f"{_FENCING}::test_what_has_lapsed_cannot_be_claimed_before_it_is_closed",),
    ),
    Bug(
        "a claim that leaves the due time in the row",
        _STATEMENTS,
        (("         next_due_at = NULL, nudged_at = NULL\n    FROM p", "         nudged_at = NULL\n    FROM p"),),
        ("run.before/raise/append",),
    ),
    Bug(
        "a close that overwrites an earlier due time",
        _STATEMENTS,
        (("next_due_at = least(c.next_due_at, CASE %(give)s::text", "next_due_at = coalesce(CASE %(give)s::text"),),
        (
            "tests/integration/test_ledger.py::test_a_request_during_a_run_makes_one_more_run_follow",
            f"{_MACHINES}::test_any_sequence_of_acts_leaves_the_ledger_as_its_rules_say",
        ),
    ),
    Bug(
        "a close without the holder",
        _STATEMENTS,
        ((" AND c.fence = %(fence)s AND c.holder = %(token)s AND r.id = %(run)s", " AND r.id = %(run)s"),),
        ("close.before/stop/append", _ZOMBIES),
    ),
    Bug(
        "a close as LOST that gives back infinity",
        _STATEMENTS,
        (("WHEN 'back' THEN coalesce(r.scheduled_for, %(tick)s::timestamptz)", "WHEN 'back' THEN 'infinity'"),),
        ("run.before/kill/append",),
    ),
    Bug(
        "a lost run that counts no attempt",
        _CLOSING,
        (
            (
                '("retry" if outcome == "FAILED" else "back"), held.attempt\n',
                '("retry" if outcome == "FAILED" else "back"), held.attempt * (outcome == "FAILED")\n',
            ),
        ),
        ("run.before/kill/append",),
    ),
    Bug(
        "a run that was handed over and counts an attempt",
        _CLOSING,
        (('give, attempt = "back", held.attempt - 1', 'give, attempt = "back", held.attempt'),),
        ("checkpoint.begun/term/append", "checkpoint.begun/term/events"),
    ),
    Bug(
        "a sweep under a session's lock",
        "maintenance.py",
        (
            (
                '        reached("sweep.before")\n',
                """        from collectkit.database import ledger_db

        if not ledger_db.run("SELECT pg_try_advisory_lock(7)")[0][0]:
            return
        reached("sweep.before")
""",
            ),
        ),
        ("sweep.before/stop/append",),
    ),
    Bug(
        "a sweep that leaves the backend of a stopped process alone",
        _CLOSING,
        (('    ledger_db.run(statements.END_BACKEND, {"application_name": f"collectkit {run.run}"})\n', "    pass\n"),),
        ("rows.middle/stop/events",),
    ),
    Bug(
        "a sweep that does not wait after a restart of the database",
        _STATEMENTS,
        (
            (
                " NOT BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + %(ttl)s::interval\n",
                " IS NOT NULL\n",
            ),
        ),
        (
            "tests/integration/test_ledger.py::test_a_lapsed_lease_is_closed_as_lost_and_its_due_time_comes_back",
            f"{_RESTART}_within_a_lease_of_the_databases_own_restart",
        ),
    ),
    Bug(
        "a nudge that is never repeated",
        _STATEMENTS,
        (
            (
                " OR c.nudged_at NOT BETWEEN clock_timestamp() - interval '10 s' AND clock_timestamp())",
                ")",
            ),
        ),
        (
            "claim.before/kill/append",
            "tests/chaos/test_clock.py::test_a_nudge_that_was_lost_before_the_clock_was_set_back_is_sent_again",
        ),
    ),
    Bug(
        "a message that is believed",
        "actor.py",
        (
            (
                "claim = self._claim(name, force=False, dry_run=None)",
                "claim = self._claim(name, force=True, dry_run=None)",
            ),
        ),
        (f"{_RECOVERY}::test_two_schedulers_a_stock_periodiq_and_doubled_nudges_make_one_run_a_tick",),
    ),
    Bug(
        "a renewal that does not say what is lost",
        _STATEMENTS,
        (
            (
                " WHERE NOT EXISTS (SELECT FROM collectkit.collector c WHERE c.name = m.name AND c.holder = m.holder)",
                " WHERE false",
            ),
        ),
        ("interrupt.before/raise/append",),
    ),
    Bug(
        "the watermark before the rows, in a transaction of its own",
        _RUN,
        (
            (
                "                yield self._batch\n",
                f"""                early = dict(meta_attr or {{}})
                self._guard(until, early, self.counts, complete=complete, changed=True)
{_ANEW}                yield self._batch
""",
            ),
        ),
        ("rows.middle/kill/append", _SOAK),
    ),
    Bug(
        "the rows before the watermark, in a transaction of their own",
        _RUN,
        (
            (
                "                counts = self.counts + self._batch.counts\n",
                f"{_ANEW}                counts = self.counts + self._batch.counts\n",
            ),
        ),
        ("guard.before/kill/append",),
    ),
    Bug(
        "followers that are told after the commit",
        _RUN,
        (
            ("        if changed:\n            ledger.pull_followers(self.name)\n", ""),
            (
                '            reached("commit.after", self.name)\n',
                """            reached("commit.after", self.name)
            if changed:
                with writing("late", idle_limit):
                    ledger.pull_followers(self.name)
""",
            ),
        ),
        ("tests/chaos/test_connections.py::test_followers_are_due_by_a_commit_even_if_its_answer_is_lost",),
    ),
    Bug(
        "a run that goes on after a COMMIT without an answer",
        _RUN,
        (("        if self._in_doubt:\n", "        if False:\n"),),
        ("tests/chaos/test_connections.py::test_after_a_commit_without_an_answer_a_run_can_write_no_more",),
    ),
    Bug(
        "a connection that is used although it has died",
        "connections.py",
        (("        while waiting.poll(0):\n", "        while False:\n"),),
        ("tests/chaos/test_connections.py::test_a_nudge_is_not_wasted_on_a_connection_that_died_while_it_was_idle",),
    ),
    Bug(
        "an interrupt that strikes wherever the thread is",
        "interrupts.py",
        (("        if not _is_at_a_lock(", "        if thread or not _is_at_a_lock("),),
        ("tests/unit/test_interrupts.py",),
    ),
    Bug(
        "a dry run that commits",
        _RUN,
        (("                if self.dry_run:\n", "                if False:\n"),),
        ("tests/integration/test_run.py::test_a_dry_run_reports_counts_and_changes_nothing",),
    ),
    Bug(
        "the next tick by the host's clock",
        _CLOSING,
        (
            (
                "tick = schedule.tick_after(held.schedule, held.tz, held.started_at)",
                "tick = schedule.tick_after(held.schedule, held.tz, datetime.now(held.started_at.tzinfo))",
            ),
        ),
        (
            f"{_FENCING}::test_a_hosts_clock_that_is_wrong_changes_nothing",
            f"{_YEAR}::test_what_fell_due_while_all_was_down_is_one_run_at_once_and_then_the_plan_goes_on",
            "tests/chaos/test_clock_changes.py",
        ),
    ),
    Bug(
        "the watermark judged by the host's clock",
        _RUN,
        (
            (
                "                until = self._watermark(updated_until_dt, now)\n",
                "                until = self._watermark(updated_until_dt, datetime.now(now.tzinfo))\n",
            ),
        ),
        (f"{_FENCING}::test_a_hosts_clock_that_is_wrong_changes_nothing",),
    ),
)
