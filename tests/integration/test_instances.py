"""The instances of a parametrised collector, by the names that people, scripts and monitors give them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import falcon.testing
import msgspec
import pytest

from collectkit import collector, cron
from service import accounts, create_app

ROOT = Path(__file__).parents[2]
TASKS = """
from collectkit import collector, cron

@collector(periodic=cron("0 * * * *"), each=lambda: ["crates.io", "Go", "GoLand"], name="feeds.parts")
def parts(run):
    run.store(updated_until_dt=run.started_at)
    return run.key
"""
CRATES, GO, GOLAND = "feeds.parts[crates.io]", "feeds.parts[Go]", "feeds.parts[GoLand]"


@pytest.fixture
def cli(db, tmp_path):
    (tmp_path / "feeds").mkdir()
    (tmp_path / "feeds" / "__init__.py").touch()
    (tmp_path / "feeds" / "tasks.py").write_text(TASKS)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COLLECTKIT_")},
        "COLLECTKIT_DATABASE_URL": db.settings.database_url,
        "COLLECTKIT_COLLECTORS": "feeds",
        "PYTHONPATH": str(ROOT),
    }

    def run(*arguments):
        command = [sys.executable, "-m", "collectkit", *arguments, "--json"]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    run("migrate")
    return run


def test_a_command_takes_the_name_for_all_instances_and_the_key_for_one(cli):
    all_of_them = cli("run", "parts")
    one = cli("run", "parts[crates.io]")
    by_key = cli("status", "Go")

    assert [each["name"] for each in all_of_them["runs"]] == [CRATES, GO, GOLAND]
    assert [(each["name"], each["outcome"]) for each in one["runs"]] == [(CRATES, "OK")]
    assert list(by_key["collectors"]) == [GO]
    assert by_key["collectors"][GO]["last_run"]["result"] == "Go"


def test_the_service_takes_them_as_a_command_does(db, broker_url):
    @collector(periodic=cron("0 * * * *"), each=lambda: ["crates.io", "Go"], name="feeds.parts")
    def parts(run):
        pass

    db.enrol(parts)
    client = falcon.testing.TestClient(create_app(msgspec.structs.replace(db.settings, broker_url=broker_url)))
    accounts.add("ann", "correct horse battery", scopes=["read"])
    answer = client.simulate_post("/auth/token", json={"username": "ann", "password": "correct horse battery"})

    def status(name):
        token = {"Authorization": f"Bearer {answer.json['access']}"}
        found = client.simulate_get(f"/collectors/api/v1/status/{name}", headers=token)
        return sorted(found.json["collectors"])

    assert status("parts") == [GO, CRATES]
    assert status("parts%5Bcrates.io%5D") == [CRATES]
    assert status("feeds.parts[crates.io]") == [CRATES]
    assert status("Go") == [GO]
