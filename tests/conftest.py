"""Short names for the fixtures that collectkit itself gives to its users."""

from __future__ import annotations

from collections.abc import Iterator

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
