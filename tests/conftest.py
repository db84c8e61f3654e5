"""Short names for the fixtures that collectkit itself gives to its users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectkit.broker import broker
from collectkit.testing import TestDatabase


@pytest.fixture
def db(collectkit_db: TestDatabase) -> TestDatabase:
    return collectkit_db


@pytest.fixture(scope="session")
def postgres_url(collectkit_database_url: str) -> str:
    return collectkit_database_url


@pytest.fixture
def broker_url(collectkit_broker_url: str) -> Iterator[str]:
    """A Valkey that holds nothing, and the broker connected to it."""
    broker.connect(collectkit_broker_url)
    broker.client.flushall()
    yield collectkit_broker_url
    broker.client.close()


@pytest.fixture
def superuser_url(postgres_url: str, collectkit_state_dir: Path) -> str:
    """The address of the same database for PostgreSQL's superuser, whom only the embedded server tells us."""
    if "COLLECTKIT_TEST_DATABASE_URL" in os.environ:
        pytest.skip("the superuser's password is known for the embedded server alone")
    password = (collectkit_state_dir / "postgres" / "superuser.password").read_text().strip()
    _, _, place = postgres_url.partition("@")
    return f"postgresql://postgres:{password}@{place}"
