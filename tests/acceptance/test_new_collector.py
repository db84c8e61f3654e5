"""A collector as its author starts it: an empty directory, one command, and a worker that knows nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.acceptance.test_recovery import faults_site
from tests.offline import OFFLINE

MINE = "collectors.mine.tasks.mine_collector"


@pytest.fixture
def site():
    with faults_site() as made:
        made.environ["COLLECTKIT_COLLECTORS"] = "collectors"
        made.environ.update(OFFLINE)
        made.home = made.home / "empty"
        made.home.mkdir()
        yield made


def said(site, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        env=site.environ,
        cwd=site.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_collector_is_loaded_by_a_worker_with_no_other_edit(site):
    said(site, "-m", "collectkit", "new", "mine")
    said(site, "-m", "collectkit", "migrate")
    # It is due at once, but no tick of its own comes between: its worker would hold it when it is run by hand.
    site.sql("UPDATE collectkit.collector SET schedule = '0 0 1 1 *'")

    listed = {each["name"] for each in json.loads(said(site, "-m", "collectkit", "list", "--json"))}
    assert {MINE, "collectors.kev.tasks.kev_collector"} <= listed
    site.run("worker")
    site.until(lambda: site.sql("SELECT 1 FROM collectkit.run WHERE collector = %s AND outcome = 'OK'", MINE) == [(1,)])

    assert site.sql("SELECT count(*) FROM public.mine") == [(3,)]
    standing = json.loads(said(site, "-m", "collectkit", "status", "mine", "--json"))["collectors"]
    assert standing[MINE]["is_up2date"]
    again = json.loads(said(site, "-m", "collectkit", "run", "mine", "--json"))
    assert again["outcome"] == "OK"
    assert again["counts"].get("inserted", 0) == 0
