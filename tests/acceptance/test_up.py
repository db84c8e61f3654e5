"""``collectkit up`` as a person runs it: real processes, stopped, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from tests.offline import OFFLINE

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def state_dir():
    with tempfile.TemporaryDirectory(prefix="ck-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def environ(state_dir):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTKIT_")}
    return {
        **kept,
        "COLLECTKIT_STATE_DIR": str(state_dir),
        "COLLECTKIT_BIND": f"127.0.0.1:{free_port()}",
        **OFFLINE,
    }


@pytest.fixture
def up(environ, state_dir):
    started = []

    def start():
        command = [sys.executable, "-m", "collectkit", "up"]
        with (state_dir / f"up-{len(started)}.txt").open("wb") as log:
            process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def collectkit(environ, *arguments):
    command = [sys.executable, "-m", "collectkit", *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def eventually(what, seconds=90):
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.1)
    return found


def example_is_complete(environ):
    answer = collectkit(environ, "status", "example", "--json")
    return answer.returncode == 0 and next(iter(json.loads(answer.stdout)["collectors"].values()))["is_up2date"]


def ours(state_dir):
    """The processes that carry this state directory in their environment or arguments, zombies apart."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ, command = ((entry / name).read_bytes() for name in ("environ", "cmdline"))
            except OSError:
                continue
            if str(state_dir).encode() in environ + command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode()
    return found


def test_everything_comes_up_and_ctrl_c_leaves_no_process(up, environ, state_dir):
    process = up()
    eventually(lambda: example_is_complete(environ))

    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0
    assert ours(state_dir) == {}


def test_a_second_up_on_the_same_directory_says_so_and_touches_nothing(up, environ):
    first = up()
    eventually(lambda: example_is_complete(environ))

    second = collectkit(environ, "up")

    assert second.returncode == 1
    assert f"already runs on {environ['COLLECTKIT_STATE_DIR']} (process {first.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    assert example_is_complete(environ)


def test_a_killed_up_takes_its_children_with_it_and_the_next_one_works(up, environ, state_dir):
    process = up()
    eventually(lambda: example_is_complete(environ))

    process.kill()
    process.wait()
    eventually(lambda: not ours(state_dir))

    up()
    eventually(lambda: example_is_complete(environ))


def test_what_a_killed_up_left_stopped_is_ended_by_the_next_one(up, environ, state_dir):
    process = up()
    eventually(lambda: example_is_complete(environ))
    frozen = [pid for pid, command in ours(state_dir).items() if "gunicorn" in command]
    assert frozen

    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    up()

    eventually(lambda: not set(frozen) & set(ours(state_dir)))
    eventually(lambda: example_is_complete(environ))


def test_an_address_in_use_is_said_before_anything_is_started(environ, state_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environ["COLLECTKIT_BIND"] = f"127.0.0.1:{taken.getsockname()[1]}"

        answer = collectkit(environ, "up")

    assert answer.returncode == 1
    assert answer.stderr.startswith(f"collectkit: the service cannot listen at {environ['COLLECTKIT_BIND']}")
    assert not (state_dir / "postgres").exists()


def test_a_migration_that_fails_ends_up_with_the_reason_and_no_process(environ, state_dir):
    environ["COLLECTKIT_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"

    answer = collectkit(environ, "up")

    assert answer.returncode == 1
    assert "PostgreSQL did not answer" in answer.stderr
    assert "the migration failed, so nothing was started" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert ours(state_dir) == {}


def test_what_dies_is_started_again(up, environ, state_dir):
    up()
    eventually(lambda: example_is_complete(environ))

    for kind in ("dramatiq", "valkey-server", "postgres -D"):
        victims = [pid for pid, command in ours(state_dir).items() if kind in command]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

        started = partial(anew, state_dir, kind, victims)
        eventually(started)
        eventually(lambda: collectkit(environ, "run", "example", "--json").returncode == 0)


def anew(state_dir, kind, before):
    """Whether there is another process of this kind than those before."""
    return any(kind in command for pid, command in ours(state_dir).items() if pid not in before)


def test_no_secret_is_in_an_argument_and_files_with_secrets_are_private(up, environ, state_dir):
    up()
    eventually(lambda: example_is_complete(environ))
    files = list(state_dir.rglob("*.password"))
    secrets = [path.read_text() for path in files]

    assert len(secrets) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {(state_dir / part).stat().st_mode & 0o777 for part in ("postgres", "valkey")} == {0o700}
    assert not [command for command in ours(state_dir).values() for secret in secrets if secret in command]
