"""A rewind: the watermark goes back, a run that is under way is revoked, and the next run reads from there again."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from collectkit import CollectkitError, collector, cron, ledger
from collectkit.database import ledger_db
from collectkit.rewinding import rewind
from collectkit.status import read_status

TTL = timedelta(seconds=30)
NAME = "tests.rewound"
TO = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture
def rewound(db):
    @collector(periodic=cron("0 * * * *"), name=NAME, cursor_keys=["place"])
    def rewound(run):
        run.store(updated_until_dt=run.started_at, meta_attr={"place": 7, "kept": 1, "_http": {"x": {"sha256": "y"}}})

    db.enrol(rewound)
    return rewound


def row(what):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector WHERE name = '{NAME}'")[0]


def test_the_watermark_goes_back_the_cursor_is_forgotten_and_the_collector_is_due(rewound):
    rewound.run_now()

    rewind(rewound, NAME, TO, by="ann", note="a bad file")

    assert row("updated_until_dt, meta_attr, data_state, next_due_at <= clock_timestamp()") == (
        TO,
        {"kept": 1},
        "COMPLETE",
        True,
    )
    assert not read_status([NAME])[NAME].is_up2date
    assert ledger_db.run("SELECT by, action, collector, note FROM collectkit.audit") == [
        ("ann", "rewind", NAME, "a bad file")
    ]


def test_a_watermark_is_not_set_back_to_where_it_stands(rewound):
    rewound.run_now()
    ((stands,),) = ledger_db.run("SELECT updated_until_dt FROM collectkit.collector")

    def back(to):
        return ledger.rewind(NAME, to=to, stale_at="infinity", dropped=[], by="ann", note=None)

    assert not back(stands)
    assert back(stands - timedelta(microseconds=1))


def test_a_run_that_is_under_way_is_revoked_and_can_commit_nothing_more(rewound):
    rewound.run_now()
    held = ledger.claim(NAME, ttl=TTL, worker="w", force=True)

    rewind(rewound, NAME, TO, by="ann")

    assert ledger_db.run(f"SELECT outcome, error FROM collectkit.run WHERE id = {held.run}") == [
        ("REVOKED", f"revoked: ann set the watermark back to {TO.isoformat()}")
    ]
    assert ledger.renew([held], TTL) == {held.token}
    assert row("attempt, holder") == (0, None)


@pytest.mark.parametrize(
    ("runs", "stands"), [(0, "it has no watermark yet$"), (1, "its watermark is .+, which is not after")]
)
def test_a_watermark_that_is_not_after_the_moment_stays(rewound, runs, stands):
    for _ in range(runs):
        rewound.run_now()
    before = row("updated_until_dt, meta_attr")

    with pytest.raises(CollectkitError, match=f"nothing was rewound: {stands}"):
        rewind(rewound, NAME, datetime.now(UTC) + timedelta(days=1), by="ann")

    assert row("updated_until_dt, meta_attr") == before
    assert ledger_db.run("SELECT FROM collectkit.audit") == []


def test_the_command_needs_a_moment_with_its_zone(db):
    command = [sys.executable, "-m", "collectkit", "rewind", "example", "--to", "2026-08-01"]
    environ = {**os.environ, "COLLECTKIT_DATABASE_URL": db.settings.database_url}

    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "has no time zone" in " ".join(done.stderr.split())
