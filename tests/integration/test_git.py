from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dramatiq.middleware.threading import raise_thread_exception

from collectkit import FetchError, LeaseLost, Settings, connect, disconnect, fetch_git
from collectkit.children import processes_in
from tests.githttp import REFS, serve_git
from tests.replay import Answer, Replay
from tests.upstream import Upstream

ROOT = Path(__file__).parents[2]
REMOTE = "git-remote-http"  # what git starts to speak with a server
UNKNOWN = "0123456789" * 4
ONE = {"a.json": b"1", "b.json": b"2", "c.txt": b"3"}
TWO = {"a.json": b"1", "b.json": b"two", "d/e.json": b"4"}


class Asked:
    log = logging.LoggerAdapter(logging.getLogger("tests.git"))


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    connect(Settings(database_url="postgresql://nobody@127.0.0.1:9/none", state_dir=tmp_path / "state"))
    yield tmp_path / "state" / "git"
    disconnect()


@pytest.fixture
def upstream(tmp_path, state):
    return Upstream(tmp_path / "upstream")


def ask(url, **options):
    return fetch_git(Asked(), url, **options)


def read(url, since=None, pattern=""):
    with ask(url, since=since) as repository:
        return dict(repository.files(pattern)), sorted(repository.gone(pattern))


def clone_of(state):
    (clone,) = state.glob("*/0/clone")
    return clone


def at_work(state):
    return [pid for place in state.glob("*/*") for name in ("git", REMOTE) for pid in processes_in(place, name)]


def is_asking(state):
    return any(processes_in(place, REMOTE) for place in state.glob("*/*"))


def until(what, seconds=60):
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_of_a_repository_that_was_not_seen_before_every_file_is_new(upstream):
    commit = upstream.publish(ONE, at=datetime(2024, 10, 21, 7, 8, 9, tzinfo=UTC))

    with ask(upstream.url) as repository:
        assert (repository.commit, repository.since, repository.unchanged) == (commit, None, False)
        assert repository.committed_at == datetime(2024, 10, 21, 7, 8, 9, tzinfo=UTC)
        assert dict(repository.files()) == ONE
        assert list(repository.gone()) == []
        assert list(repository.paths(r"\.json$")) == ["a.json", "b.json"]


def test_since_a_commit_the_files_count_that_differ_and_those_that_went(upstream):
    first = upstream.publish(ONE)
    read(upstream.url)

    upstream.publish(TWO)

    assert read(upstream.url, first) == ({"b.json": b"two", "d/e.json": b"4"}, ["c.txt"])
    assert read(upstream.url, first, r"\.txt$") == ({}, ["c.txt"])


def test_the_same_commit_is_unchanged(upstream):
    commit = upstream.publish(ONE)
    read(upstream.url)

    with ask(upstream.url, since=commit) as repository:
        assert repository.unchanged
        assert list(repository.files()) == list(repository.gone()) == []


def test_a_renamed_file_is_gone_and_new(upstream):
    first = upstream.publish({"old": b"the same"})

    upstream.publish({"new": b"the same"})

    assert read(upstream.url, first) == ({"new": b"the same"}, ["old"])


@pytest.mark.parametrize("since", [UNKNOWN, "", "HEAD", "--help", "0123"])
def test_since_what_is_no_known_commit_every_file_is_new(upstream, since):
    upstream.publish(ONE)

    with ask(upstream.url, since=since) as repository:
        assert repository.since is None
        assert dict(repository.files()) == ONE


def test_a_new_clone_compares_with_a_commit_that_the_source_still_has(upstream, state):
    first = upstream.publish(ONE)
    upstream.publish(TWO)

    assert list(state.iterdir() if state.exists() else []) == []
    assert read(upstream.url, first) == ({"b.json": b"two", "d/e.json": b"4"}, ["c.txt"])


def test_a_rewritten_history_is_compared_by_content(upstream):
    first = upstream.publish(ONE)
    read(upstream.url)

    upstream.publish(TWO, anew=True)
    upstream.git("gc", "--quiet", "--prune=now")

    assert read(upstream.url, first) == ({"b.json": b"two", "d/e.json": b"4"}, ["c.txt"])


def test_head_counts_whatever_its_branch(upstream):
    first = upstream.publish(ONE)
    read(upstream.url)

    upstream.publish(TWO, branch="another")
    upstream.git("symbolic-ref", "HEAD", "refs/heads/another")

    assert read(upstream.url, first)[0] == {"b.json": b"two", "d/e.json": b"4"}


def test_odd_names_and_contents_come_through(upstream):
    odd = {b"caf\xe9": b"\0\xff", b"two\nlines": b"", b"-dash": b"x\n", b" sp ace ": b"y" * 200_000}
    upstream.publish(odd)

    found, _ = read(upstream.url)

    assert {os.fsencode(path): body for path, body in found.items()} == odd


def test_links_and_submodules_are_no_files(upstream):
    first = upstream.publish({"a": b"1", "b": b"2"})

    upstream.publish({"a": b"/etc/passwd"}, mode="120000")
    assert read(upstream.url, first) == ({}, ["a", "b"])

    upstream.publish({"a": UNKNOWN.encode()}, mode="160000")
    assert read(upstream.url, first) == ({}, ["a", "b"])
    assert read(upstream.url) == ({}, [])


def test_a_source_that_is_itself_shallow_is_taken(upstream, tmp_path, state):
    upstream.publish(ONE)
    upstream.publish(TWO)
    subprocess.run(["git", "clone", "-q", "--bare", "--depth=1", upstream.url, tmp_path / "mirror"], check=True)

    assert read(f"file://{tmp_path}/mirror")[0] == TWO


def test_what_months_of_updates_leave_behind_is_cleared_away(upstream, state):
    since = upstream.publish({"a": b"0"})
    read(upstream.url)
    subprocess.run(["git", "-C", clone_of(state), "config", "gc.auto", "1"], check=True)

    for number in range(1, 9):
        files = {str(n): b"%d %d" % (n, number) for n in range(40)}
        before, since = since, upstream.publish(files)
        assert len(read(upstream.url, before)[0]) == 40

    counted = subprocess.check_output(["git", "-C", clone_of(state), "count-objects", "-v"], text=True)
    numbers = {name: int(value) for name, value in (line.split(": ") for line in counted.splitlines())}
    assert numbers["count"] + numbers["in-pack"] < 4 * 42
    assert len((clone_of(state) / "shallow").read_text().splitlines()) <= 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(Answer(content_type="text/html", body=b"<html>\n<body>\n"), "is this a git repository", id="html"),
        pytest.param(Answer(content_type="text/html", body=b"<html>"), "find remote ref HEAD", id="html-in-one-line"),
        pytest.param(Answer(status=403), "returned error: 403", id="403"),
        pytest.param(Answer(status=429, headers={"Retry-After": "1"}), "returned error: 429", id="429"),
        pytest.param(Answer(status=503), "returned error: 503", id="503"),
        pytest.param(Answer(status=404, body=b"<b>\nno\n"), "not found", id="404"),
        pytest.param(Answer(status=401, headers={"WWW-Authenticate": "Basic"}), "could not read Username", id="401"),
        pytest.param(
            Answer(content_type="application/x-git-upload-pack-advertisement", body=b"<html>"), "protocol", id="babble"
        ),
    ],
)
def test_a_source_that_is_no_repository_fails_in_one_line_without_secrets(state, answer, reason):
    with Replay() as source:
        url = source.answer("/list.git/info/refs", answer).replace("://", "://ann:pass%20word@")

        with pytest.raises(FetchError, match=reason) as caught, ask(url.removesuffix("/info/refs")):
            pass

        told = str(caught.value)
        assert told.startswith(f"{source.base}/list.git: ")
        assert "\n" not in told
        assert "pass" not in told
        expected = b64encode(b"ann:pass word").decode()
        assert source.requests[0].headers["authorization"] == f"Basic {expected}"
    assert list(state.glob("*/*/clone")) == list(state.glob("*/*/new")) == []


def led(address):
    return Answer.redirect(f"{address}{REFS}?service=git-upload-pack")


def test_a_redirect_is_followed_but_not_with_a_password_which_no_other_host_gets(upstream):
    upstream.publish(ONE)
    with Replay() as source, Replay() as other:
        there = serve_git(other, "/moved.git", upstream.directory)
        url = source.answer(f"/list.git{REFS}", led(there)).removesuffix(REFS)

        assert read(url)[0] == ONE
        other.requests.clear()
        with pytest.raises(FetchError, match="returned error: 302") as caught:
            read(url.replace("://", "://ann:pass%20word@"))

        assert "authorization" in source.requests[-1].headers
        assert other.requests == []
        assert "pass" not in str(caught.value)


def test_a_redirect_that_would_give_up_https_is_not_followed(upstream, tmp_path):
    if not (openssl := shutil.which("openssl")):
        pytest.skip("there is no openssl here to make a certificate")
    both = tmp_path / "both.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([openssl, *made, "-keyout", both, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    Path(os.environ["GIT_CONFIG_GLOBAL"]).write_text("[http]\nsslVerify = false\n")
    upstream.publish(ONE)
    with Replay() as plain, Replay(tls=context) as source:
        there = serve_git(plain, "/moved.git", upstream.directory)
        assert read(serve_git(source, "/list.git", upstream.directory))[0] == ONE
        url = source.answer(f"/moved.git{REFS}", led(there)).removesuffix(REFS)

        with pytest.raises(FetchError, match=r'"http" .*disabled'):
            read(url)

        assert plain.requests == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/list.git", "Failed to connect"),
        ("git://127.0.0.1:9/list.git", "unable to connect"),
        ("/nowhere/list.git", "does not appear to be a git repository"),
        ("ext::sh -c true", "transport 'ext' not allowed"),  # which would run a program
        ("--upload-pack=true", "strange pathname|does not appear to be"),
    ],
)
def test_an_address_that_leads_nowhere_fails_in_one_line(state, url, reason):
    with pytest.raises(FetchError, match=reason) as caught, ask(url):
        pass

    assert "\n" not in str(caught.value)


def test_an_empty_repository_fails(upstream):
    with pytest.raises(FetchError, match="find remote ref HEAD"), ask(upstream.url):
        pass


def test_a_source_that_is_away_costs_the_clone_nothing(upstream, state):
    first = upstream.publish(ONE)
    read(upstream.url)
    made = clone_of(state).stat().st_ino
    upstream.directory.rename(upstream.directory.with_name("away"))

    with pytest.raises(FetchError), ask(upstream.url):
        pass

    upstream.directory.with_name("away").rename(upstream.directory)
    upstream.publish(TWO)
    assert read(upstream.url, first)[1] == ["c.txt"]
    assert clone_of(state).stat().st_ino == made


def test_a_source_that_fails_once_costs_the_clone_nothing(upstream, state):
    first = upstream.publish(ONE)
    fails = []
    with Replay() as source:
        url = serve_git(
            source, "/list.git", upstream.directory, spoil=lambda good, _: Answer(status=fails.pop()) if fails else good
        )
        read(url)
        made = clone_of(state).stat().st_ino

        fails.append(503)
        with pytest.raises(FetchError, match="returned error: 503"):
            read(url)

        upstream.publish(TWO)
        assert read(url, first)[1] == ["c.txt"]
        assert clone_of(state).stat().st_ino == made


def truncate(file):
    file.chmod(0o600)
    os.truncate(file, file.stat().st_size // 2)


BREAK = {
    "no HEAD": lambda clone: (clone / "HEAD").unlink(),
    "a lock that was left": lambda clone: (clone / "shallow.lock").touch(),
    "a broken configuration": lambda clone: (clone / "config").write_text("[core"),
    "a broken index": lambda clone: truncate(next(clone.glob("objects/pack/*.idx"))),
    "an empty directory": lambda clone: [clone.rename(clone.with_name("broken")), clone.mkdir()],
}


@pytest.mark.parametrize("what", BREAK)
def test_a_clone_that_is_broken_is_mended_or_made_anew(upstream, state, what):
    # A pack, however few its objects.
    Path(os.environ["GIT_CONFIG_GLOBAL"]).write_text("[fetch]\nunpackLimit = 1\n")
    first = upstream.publish(ONE)
    read(upstream.url)

    BREAK[what](clone_of(state))
    upstream.publish(TWO)

    assert read(upstream.url, first) == ({"b.json": b"two", "d/e.json": b"4"}, ["c.txt"])


def test_a_clone_whose_content_is_broken_fails_once_and_is_made_anew(upstream, state):
    upstream.publish(ONE)
    read(upstream.url)
    blob = upstream.git("rev-parse", "HEAD:b.json")
    truncate(clone_of(state) / "objects" / blob[:2] / blob[2:])

    with pytest.raises(FetchError, match="the clone is broken and will be made anew"):
        read(upstream.url)

    assert read(upstream.url)[0] == ONE


def test_what_a_kill_left_half_made_is_in_nobodys_way(upstream, state):
    upstream.publish(ONE)
    read(upstream.url)
    half = clone_of(state).rename(clone_of(state).with_name("new"))
    (half / "shallow.lock").touch()

    assert read(upstream.url)[0] == ONE
    assert list(state.glob("*/*/new")) == []


def test_a_repository_that_is_too_large_is_refused_and_takes_no_disk(upstream, state):
    upstream.publish({"a": os.urandom(20_000)})

    with pytest.raises(FetchError, match="more than the limit of 10,000"), ask(upstream.url, max_bytes=10_000):
        pass

    assert list(state.glob("*/*/clone")) == list(state.glob("*/*/new")) == []


def test_a_file_that_is_too_large_is_rejected_and_the_others_come(upstream, monkeypatch):
    monkeypatch.setattr("collectkit.git._LARGEST_FILE", 100)
    upstream.publish({"a": b"1", "b": b"x" * 200_000, "c": b"3"})

    files, _ = read(upstream.url)

    assert (files["a"], files["c"]) == (b"1", b"3")
    assert files["b"].reason == "has 200,000 bytes, more than the limit of 100"


def test_without_git_the_reason_says_so(upstream, monkeypatch):
    upstream.publish(ONE)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(FetchError, match="the program git is not installed here"), ask(upstream.url):
        pass


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("kill -KILL $$", "git ended with code -9"),
        ("printf '%s blob 7\nabc' x; exit 1", "git ended in the middle of a file"),
        ("echo x missing; exit", "object x is missing"),
    ],
)
def test_a_git_that_ends_early_fails_in_one_line_and_the_next_one_works(upstream, tmp_path, monkeypatch, does, reason):
    upstream.publish(ONE)
    broken = tmp_path / "bin" / "git"
    broken.parent.mkdir()
    broken.write_text(f'#!/bin/sh\n[ "$1" = cat-file ] && {{ {does}; }}\nPATH=${{PATH#*:}} exec git "$@"\n')
    broken.chmod(0o700)

    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
        with pytest.raises(FetchError, match=f"made anew .{reason}"):
            read(upstream.url)

    assert read(upstream.url)[0] == ONE


@pytest.fixture
def silent():
    """The address of a source that takes the question and never answers."""
    with Replay() as source:
        yield source.answer("/list.git/info/refs", Answer(delay=30)).removesuffix("/info/refs")


def test_a_source_that_does_not_answer_is_given_up_in_time_and_no_git_stays(silent, state):
    began = time.monotonic()

    with pytest.raises(FetchError, match="was not done in time"), ask(silent, timeout=timedelta(seconds=0.5)):
        pass

    assert time.monotonic() - began < 20
    until(lambda: at_work(state) == [], 10)


def test_an_interrupt_ends_a_waiting_git_at_once(silent, state):
    ended = []

    def wait():
        try:
            with ask(silent):
                pass
        except LeaseLost:
            ended.append(time.monotonic())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(lambda: is_asking(state))
    struck = time.monotonic()
    raise_thread_exception(thread.ident, LeaseLost)
    thread.join(25)

    assert ended
    assert ended[0] - struck < 20
    until(lambda: at_work(state) == [], 10)


def test_an_interrupt_ends_a_git_that_is_stopped_while_it_is_read(upstream, state):
    upstream.publish({str(n): os.urandom(100_000) for n in range(20)})
    stopped, ended = [], []

    def wait():
        try:
            with ask(upstream.url) as repository:
                files = repository.files()
                next(files)
                stopped.extend(at_work(state))
                os.kill(stopped[0], signal.SIGSTOP)
                list(files)
        except LeaseLost:
            ended.append(time.monotonic())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(lambda: stopped)
    raise_thread_exception(thread.ident, LeaseLost)
    thread.join(25)

    assert ended
    until(lambda: at_work(state) == [], 10)


def test_whoever_comes_after_a_killed_process_waits_until_its_git_has_ended(state):
    with Replay() as source:
        slow = source.answer("/list.git/info/refs", Answer(status=404, delay=2)).removesuffix("/info/refs")
        program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.integration.test_git import *
connect(Settings(database_url="postgresql://nobody@127.0.0.1:9/none", state_dir=Path({str(state.parent)!r})))
with ask({slow!r}): pass
"""
        process = subprocess.Popen([sys.executable, "-c", program])
        until(lambda: source.requests)
        source.answer("/list.git/info/refs", Answer(status=404))

        process.kill()
        process.wait()
        assert at_work(state)
        with pytest.raises(FetchError, match="not found"), ask(slow):
            pass

    assert at_work(state) == []
    assert [place.name for place in state.glob("*/*")] == ["0"]


def test_a_stopped_process_that_holds_the_clone_holds_nobody_back(upstream, state, monkeypatch):
    monkeypatch.setattr("collectkit.clone._PATIENCE", 0.2)
    upstream.publish(ONE)
    read(upstream.url)
    (lock,) = state.glob("*/0/lock")

    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read(upstream.url)[0] == ONE
        assert list(state.glob("*/1/clone"))

    assert read(upstream.url)[0] == ONE
    assert list(state.glob("*/1/clone")) == []


def test_a_hook_whose_repository_is_another_does_not_lead_git_astray(upstream, monkeypatch):
    upstream.publish(ONE)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nowhere/objects")

    assert read(upstream.url)[0] == ONE
