"""Two installations on one server, each in a database of its own, leave each other's runs alone."""

from __future__ import annotations

import psycopg
import pytest

from collectkit import statements
from tests.site import Servers


@pytest.fixture
def servers(home):
    with Servers(home) as made:
        yield made


def test_closing_a_lost_run_ends_no_backend_in_another_database(servers):
    one, other = (servers.create_database(name) for name in ("one", "other"))
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
