"""Two installations on one server, each in a database of its own, leave each other's runs alone."""

from __future__ import annotations

import psycopg
import pytest

from collectkit import statements


def test_closing_a_lost_run_ends_no_backend_in_another_database(on):
    one, other = (on[0].servers.create_database(name) for name in ("one", "other"))
    name = "collectkit 7"

    with (
        psycopg.connect(one, autocommit=True) as sweep,
        psycopg.connect(one, autocommit=True, application_name=name) as lost,
        psycopg.connect(other, autocommit=True, application_name=name) as neighbour,
    ):
        sweep.execute(statements.END_BACKEND, {"application_name": name})

        assert neighbour.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            lost.execute("SELECT 1")
