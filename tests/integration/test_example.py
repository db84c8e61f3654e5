from __future__ import annotations

import psycopg

from collectors.example.tasks import example_collector


def test_the_smallest_collector_stores_that_it_looked_and_says_so(db):
    db.enrol(example_collector)

    outcome = example_collector.run_now()

    with psycopg.connect(db.settings.database_url) as connection:
        row = connection.execute(
            "SELECT c.data_state, c.updated_until_dt = r.started_at, r.result"
            " FROM collectkit.collector c JOIN collectkit.run r ON r.collector = c.name"
        ).fetchone()
    assert (outcome.outcome, outcome.reason) == ("OK", None)
    assert row == ("COMPLETE", True, f"looked at {outcome.updated_until:%H:%M:%S} UTC")
