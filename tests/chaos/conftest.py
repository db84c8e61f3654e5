"""How much of the chaos there is to be: a small share in ``make test``, all of it in ``make chaos``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from collectkit.database import connect, disconnect
from collectkit.settings import Settings
from collectkit.testing import TestDatabase
from tests.chaos.lane import Lane
from tests.chaos.matrix import lanes
from tests.chaos.proxy import Proxy

_FAILED = pytest.StashKey[bool]()


@dataclass(frozen=True)
class Scale:
    """What ``make chaos`` was asked for.

    Attributes:
        full: whether it was at all; else a share of a minute or so is wanted.
        seed: from which everything that is left to chance follows.
        seeds: how many seeds, from that one on, matrix and soak are played with.
        kills: of all soaks together.
        only: a pattern of cases, ``commit.*/kill/*``.
    """

    full: bool
    seed: int
    seeds: int
    kills: int
    only: str


@pytest.fixture(scope="session")
def scale() -> Scale:
    return Scale(
        full=bool(os.environ.get("CHAOS")),
        seed=int(os.environ.get("SEED") or 1),
        seeds=int(os.environ.get("SEEDS") or 1),
        kills=int(os.environ.get("KILLS") or 300),
        only=os.environ.get("ONLY") or "*",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for node in item.listchain():
            node.stash[_FAILED] = True
    else:
        # What it measured is shown at the end; what the core had to say to all that befell it is not.
        report.sections = [each for each in report.sections if "stdout" in each[0]]
    return report


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path, for a socket's has a hundred bytes at most; it stays, with the logs, if the test fails."""
    yield from _directory(request)


@pytest.fixture(scope="module")
def module_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The same, for all tests of a module."""
    yield from _directory(request)


@pytest.fixture(scope="module")
def on(module_home: Path, scale: Scale) -> Iterator[list[Lane]]:
    """Lanes for all tests of a module: each leaves them at rest. They end with it: workers take time even at rest."""
    with lanes(module_home, 8 if scale.full else 5) as made:
        yield made


@pytest.fixture(scope="module")
def one_lane(module_home: Path) -> Iterator[Lane]:
    """A lane for all tests of a module that need no more."""
    with lanes(module_home, 1) as (made,):
        yield made


def _directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ck-"))
    yield made
    if request.node.stash.get(_FAILED, False):
        print(f"\nlogs and data are in {made}")
    else:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def proxy(db: TestDatabase) -> Iterator[Proxy]:
    """The database is reached by a relay that a test can cut."""
    way = psycopg.conninfo.conninfo_to_dict(db.settings.database_url)
    host, port = str(way.get("host", "localhost")), int(way.get("port", 5432))
    made = Proxy(Path(host, f".s.PGSQL.{port}") if host.startswith("/") else (host, port))
    disconnect()
    connect(
        Settings(
            database_url=f"postgresql://{way['user']}:{way['password']}@127.0.0.1:{made.port}/{way['dbname']}",
            state_dir=db.settings.state_dir,
        )
    )
    yield made
    disconnect()
    connect(db.settings)
    made.close()
