"""The service as a real process under gunicorn, asked over a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from collectkit import collector, cron
from collectkit.database import ledger_db
from service import accounts

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"
STATUS = "/collectors/api/v1/status"

GUNICORN = ["-m", "gunicorn", "service:create_app()", "--no-control-socket", "--workers", "2"]
COMMANDS = {
    "collectkit serve": ["-m", "collectkit", "serve", "--workers", "2", "--threads", "4"],
    "gunicorn, sync workers": GUNICORN,
    "gunicorn, threads": [*GUNICORN, "--worker-class", "gthread", "--threads", "4"],
}


class Server:
    """A running service; what it wrote is in ``log`` when it has stopped."""

    def __init__(self, arguments, environment, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        bind = ["--bind", self.address] if "gunicorn" in arguments else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTKIT_")}
        self.log_path = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments, *bind],
                cwd=ROOT,
                env={**inherited, **environment, "COLLECTKIT_BIND": self.address},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.http = urllib3.PoolManager(retries=False, timeout=30)

    def ask(self, method, path, **more):
        return self.http.request(method, f"http://{self.address}{path}", **more)

    def wait_until_healthy(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self.ask("GET", "/collectors/healthy").status == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"the service did not come up:\n{self.log}")

    def stop(self):
        self.http.clear()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def log(self):
        return self.log_path.read_text("utf-8")


@pytest.fixture
def environment(db, broker_url):
    return {
        "COLLECTKIT_DATABASE_URL": db.settings.database_url,
        "COLLECTKIT_BROKER_URL": broker_url,
        "COLLECTKIT_STATE_DIR": str(db.settings.state_dir / "service"),
    }


@pytest.fixture
def serve(environment, tmp_path):
    servers = []

    def start(arguments):
        servers.append(Server(arguments, environment, tmp_path / f"serve-{len(servers)}.log"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def one(db):
    @collector(periodic=cron("0 * * * *"), name="tests.one")
    def one(run):
        run.store(updated_until_dt=run.started_at)

    db.enrol(one)
    one.run_now()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_service_answers_over_a_socket_and_stops_when_told(serve, one, command):
    accounts.add("ann", PASSWORD, scopes=["read"])
    server = serve(COMMANDS[command])
    server.wait_until_healthy()

    tokens = server.ask("POST", "/auth/token", json={"username": "ann", "password": PASSWORD}).json()
    bearer = {"Authorization": f"Bearer {tokens['access']}"}
    # Both processes take it, so that both have the key that one of them made.
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask("GET", STATUS, headers=bearer), range(40)))
    ready = server.ask("GET", "/collectors/ready")
    code = server.stop()

    assert {answer.status for answer in answers} == {200}
    assert answers[0].json()["collectors"]["tests.one"]["is_up2date"] is True
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert ready.status == 200, ready.data
    assert code == 0, server.log
    for secret in [PASSWORD, tokens["access"], tokens["refresh"], "Traceback"]:
        assert secret not in server.log


def test_a_body_without_an_announced_length_is_read_and_limited_too(serve):
    server = serve(GUNICORN)
    server.wait_until_healthy()
    json = {"Content-Type": "application/json"}

    def chunked(size):
        return server.ask("POST", "/auth/token", body=iter([b'{"username": "', b"x" * size, b'"}']), headers=json)

    assert chunked(10).json()["detail"].endswith("missing required field `password`")
    assert chunked(100_000).status == 413


def test_connections_that_died_while_idle_are_made_anew_and_nobody_notices(serve, one):
    accounts.add("ann", PASSWORD)
    server = serve(COMMANDS["gunicorn, threads"])
    server.wait_until_healthy()
    access = server.ask("POST", "/auth/token", json={"username": "ann", "password": PASSWORD}).json()["access"]
    bearer = {"Authorization": f"Bearer {access}"}

    # As a restart of the database does it: every connection dies while it is idle.
    for _ in range(3):
        ledger_db.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'collectkit ledger' AND pid <> pg_backend_pid() AND datname = current_database()"
        )
        assert server.ask("GET", STATUS, headers=bearer).status == 200


def test_a_setting_that_cannot_be_used_stops_the_service_with_its_line(serve, environment):
    environment["COLLECTKIT_JWT_KEY"] = "short"

    server = serve(GUNICORN)

    assert server.process.wait(60) != 0
    assert "COLLECTKIT_JWT_KEY: the key has at least 32 bytes" in server.log
    assert "short" not in server.log
