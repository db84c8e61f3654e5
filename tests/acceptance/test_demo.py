"""``make demo`` as a person runs it: what it shows is true, and nothing of it asks the network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.demo.sources import ASK_NOBODY, FEEDS, Sources
from tests.demo.telling import WIDTH
from tests.replay import Replay

ROOT = Path(__file__).parents[2]
# Python imports it wherever it finds it, so every process of the demo tells whom it speaks to.
LISTENER = """
import json, os, sys

def hear(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        whom = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        line = json.dumps(whom if isinstance(whom, (str, tuple)) else repr(whom)) + "\\n"
        file = os.open(os.environ["HEARD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)

sys.addaudithook(hear)
"""
# What the READMEs beside the data count: rows, new, changed, gone, as before.
FIRST = {
    "cvelist": (38, 38, 0, 0, 0),
    "epss": (3939, 3939, 0, 0, 0),
    "exploitdb": (400, 400, 0, 0, 0),
    "kev": (1655, 1655, 0, 0, 0),
    "metasploit": (300, 300, 0, 0, 0),
    "nvd": (251, 251, 0, 0, 0),
    "osv": (140, 140, 0, 0, 0),
    "example": (0, 0, 0, 0, 0),
    "priority": (4203, 4203, 0, 0, 0),
}
SECOND = {
    "cvelist": (52, 14, 15, 0, 23),
    "epss": (3940, 8, 3932, 7, 0),
    "exploitdb": (420, 30, 40, 10, 350),
    "kev": (1660, 5, 3, 0, 1652),
    "metasploit": (315, 20, 10, 5, 285),
    "nvd": (251, 0, 3, 0, 248),
    "osv": (203, 63, 7, 0, 133),
    "priority": (4205, 9, 4196, 7, 0),
}
LAST = {"epss": (4067, 127, 3886, 0, 54), "kev": (1660, 0, 0, 0, 1660), "priority": (4311, 106, 4130, 0, 75)}


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="ck-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def demo():
    started = []

    def start(*arguments, **environ):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo", *arguments],
            env=os.environ | environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def processes(place):
    """The processes that work below this directory."""
    return [entry for entry in Path("/proc").glob("[0-9]*/environ") if str(place) in readable(entry)]


def readable(file):
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:  # gone, or another user's
        return ""


def tables(story):
    """The numbers of each day's table, by feed."""
    found = []
    for line in story.splitlines():
        if line.startswith("  feed "):
            found.append({})
        elif cells := re.match(r"  (\w+)  +.*?  +((?:[-\d,]+ +){5})\d+\.\d\d$", line):
            numbers = cells[2].replace(",", "").split()
            found[-1][cells[1]] = tuple(0 if number == "-" else int(number) for number in numbers)
    return found


@pytest.mark.timeout(600)  # it takes 20 s on a quiet machine; its own patience is what ends it
def test_it_shows_every_collector_from_day_to_day_and_asks_no_network(demo, place):
    (place / "sitecustomize.py").write_text(LISTENER)
    (place / "gitconfig").write_text('[protocol]\nallow = never\n[protocol "file"]\nallow = always\n')
    running = demo(
        "--once",
        f"--state-dir={place / 'state'}",
        PYTHONPATH=str(place),
        HEARD=str(place / "heard"),
        GIT_CONFIG_GLOBAL=str(place / "gitconfig"),
        KEV_COLLECTOR_ENABLED="false",  # what is set for another site does not hold here
    )

    story, _ = running.communicate()

    assert running.returncode == 0, story
    assert tables(story) == [FIRST, SECOND, LAST]
    first, second, third, _ = re.split(r"^Day [2-4]: ", story, flags=re.MULTILINE)
    assert re.findall(r"^  +(\d+)  CVE-[-0-9]+ +1094\.\d{6}  known to be exploited", first, re.MULTILINE) == [
        str(rank) for rank in range(1, 11)
    ]
    assert " 1  CVE-2021-26855    1099.999098  was 160\n" in second
    assert "sent gzip that is broken" in third
    assert "is not JSON, it begins with '<HTML>" in " ".join(third.split())
    assert third.count("COMPLETE and up to date, all ") == 2
    assert story.endswith("All 9 collectors are COMPLETE and up to date.\nStopping.\nStopped.\n")
    heard = {json.dumps(each[0] if isinstance(each, list) else each) for each in spoken_to(place)}
    assert {each for each in heard if not each.startswith('"/')} == {'"127.0.0.1"'}
    assert max(len(line) for line in story.replace(str(place), "").splitlines()) <= WIDTH
    assert not processes(place)


def spoken_to(place):
    return map(json.loads, (place / "heard").read_text().splitlines())


def test_every_shipped_collector_has_its_part():
    shipped = {path.parent.name for path in (ROOT / "collectors").glob("*/tasks.py")}

    assert {*FEEDS, *ASK_NOBODY} == shipped


def test_without_git_the_collector_that_needs_it_is_left_out_and_named(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))

    with Replay() as server:
        sources = Sources(server, place / "repository")

        assert sources.left_out == {"cvelist": "its source is a git repository: install `git`"}
        assert "cvelist" not in sources.feeds
        assert "collectors.cvelist" not in sources.environ["COLLECTKIT_COLLECTORS"].split(",")


@pytest.mark.timeout(300)
def test_ctrl_c_stops_all_of_it_also_while_it_starts(demo, place):
    running = demo(f"--state-dir={place / 'state'}")
    while not (place / "state" / "postgres" / "data").exists():
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.02)

    running.send_signal(signal.SIGINT)
    story, _ = running.communicate()

    assert running.returncode == 130, story
    assert "Traceback" not in story
    assert not processes(place)


def test_a_directory_that_is_not_its_own_is_left_alone(demo, place):
    (place / "mine").touch()

    running = demo("--once", f"--state-dir={place}")
    story, _ = running.communicate()

    assert running.returncode == 1
    assert "was not made by the demo" in story
    assert (place / "mine").exists()
