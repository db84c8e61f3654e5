"""Callers with different groups at once, on a real service: each sees its rows, whichever connection serves it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import urllib3

from collectkit.database import ledger_db
from service import accounts
from tests.acceptance.test_serve import Server
from tests.integration.test_data import DATA, Entry, Open, Unserved, declare

PASSWORD = "correct horse battery"
REQUESTS = 10_000 if os.environ.get("CHAOS") else 4_000
CALLERS = {"ann": ["public"], "bob": ["internal"], "cid": ["public", "internal"], "dan": []}


@pytest.fixture
def server(db, broker_url, tmp_path):
    entries = declare(Entry, Unserved, Open)
    db.enrol(entries)
    assert entries.run_now().outcome == "OK"
    for name, groups in CALLERS.items():
        accounts.add(name, PASSWORD, groups=groups)
    environment = {"COLLECTKIT_DATABASE_URL": db.settings.database_url, "COLLECTKIT_BROKER_URL": broker_url}
    environment["COLLECTKIT_STATE_DIR"] = str(tmp_path)
    running = Server(["-m", "collectkit", "serve", "--workers", "2", "--threads", "4"], environment, tmp_path / "log")
    running.wait_until_healthy()
    yield running
    running.stop()


def test_each_caller_sees_its_rows_only_in_thousands_of_requests_at_once(server):
    def token(name):
        asked = {"username": name, "password": PASSWORD}
        return server.ask("POST", "/auth/token", json=asked).json()["access"]

    bearers = {name: {"Authorization": f"Bearer {token(name)}"} for name in CALLERS}
    numbers, wrong, mine = count(), [], threading.local()

    def ask_on(name):
        if not hasattr(mine, "http"):
            mine.http = urllib3.PoolManager(retries=False, timeout=30)
        while next(numbers) < REQUESTS:
            answer = mine.http.request("GET", f"http://{server.address}{DATA}/entry", headers=bearers[name])
            seen = {row["part"] for row in answer.json()["rows"]} if answer.status == 200 else answer.status
            if seen != set(CALLERS[name]):
                wrong.append((name, seen))
        mine.http.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask_on, CALLERS))

    assert wrong == []
    (sessions,) = ledger_db.run("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'collectkit'")[0]
    assert 0 < sessions <= 8 + 1
