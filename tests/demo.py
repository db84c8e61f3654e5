"""`make demo`: a collector from its first load to an incremental update, on servers of its own, without the network.

A local server answers with recorded versions of CISA's KEV catalogue in place of cisa.gov; everything else is what
`collectkit up` runs anywhere. The state is made anew each time.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from collectkit.children import spawn  # noqa: E402 - found by the line above
from tests.replay import Answer, Replay  # noqa: E402

RECORDED = ROOT / "tests" / "data" / "kev"
FEED = "/known_exploited_vulnerabilities.json"
KEV = "collectors.kev.tasks.kev_collector"
ACCOUNT = "demo"
MARKER = ".collectkit-demo"
PATIENCE = 90.0
RENEWAL = 240.0


class DemoFailed(Exception):
    """Something did not come about; the message says what, and where to look."""


class Demo:
    """One run of the demo: the state below a directory, the source, and `collectkit up` as a child."""

    def __init__(self, state: Path, source: Replay) -> None:
        self.state = state
        self.source = source
        self.bind = f"127.0.0.1:{_free_port(8000)}"
        self.api = f"http://{self.bind}"
        self.log = state / "up.log"
        self._http = urllib3.PoolManager(retries=False, timeout=10)
        self._access = ""
        self._refresh = ""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COLLECTKIT_", "KEV_"))}
        self.environ = inherited | {
            "COLLECTKIT_STATE_DIR": str(state),
            "COLLECTKIT_BIND": self.bind,
            "COLLECTKIT_COLLECTORS": "collectors.example,collectors.kev",  # no other: they would ask their real sources
            "KEV_COLLECTOR_URL": source.base + FEED,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run `collectkit up` while the block runs; it stops all that it has started."""
        with self.log.open("wb") as log:
            process = spawn(_collectkit("up"), environ=self.environ, cwd=ROOT, log=log)
        try:
            yield process
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            process.terminate()
            process.wait()

    def wait_for_service(self, process: subprocess.Popen[bytes]) -> None:
        """Return once the service answers."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            if process.poll() is not None:
                raise DemoFailed(f"`collectkit up` ended with code {process.returncode}; the log ends:\n{self._tail()}")
            try:
                self._ask("GET", "/collectors/healthy")
            except DemoFailed:
                time.sleep(0.1)
            else:
                return
        raise DemoFailed(f"the service did not answer within {PATIENCE:.0f} s; the log ends:\n{self._tail()}")

    def add_account(self) -> Path:
        """Make an account that may read, and leave its token in a file that only this user can read."""
        password = secrets.token_urlsafe(24)
        self._command("user", "add", ACCOUNT, "--groups", "", "--scopes", "read", "--password-stdin", says=password)
        tokens = self._ask("POST", "/auth/token", json={"username": ACCOUNT, "password": password})
        self._refresh = tokens["refresh"]
        return self._keep(tokens["access"])

    def renew_token(self) -> None:
        """Put a new token into the file, before the old one expires."""
        self._keep(self._ask("POST", "/auth/token/refresh", json={"refresh": self._refresh})["access"])

    def request_run(self) -> None:
        """Ask for a run by the worker, as an operator does."""
        self._command("run", "kev", "--nudge")

    def wait_for_run(self, after: int = 0) -> dict[str, Any]:
        """Return how the collector stands once a run that is newer than the given one has ended."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            bearer = {"Authorization": f"Bearer {self._access}"}
            status = self._ask("GET", f"/collectors/api/v1/status/{KEV}", headers=bearer)["collectors"][KEV]
            last = status["last_run"]
            if last is not None and last["id"] > after and last["finished_at"] is not None:
                if last["outcome"] != "OK":
                    raise DemoFailed(f"run {last['id']} ended {last['outcome']}: {last['error']}")
                return dict(status)
            time.sleep(0.1)
        raise DemoFailed(f"no run ended within {PATIENCE:.0f} s; the log ends:\n{self._tail()}")

    def _command(self, *arguments: str, says: str | None = None) -> None:
        done = subprocess.run(
            _collectkit(*arguments), env=self.environ, cwd=ROOT, input=says, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoFailed(f"`collectkit {shlex.join(arguments)}` failed: {done.stderr.strip()}")

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, self.api + path, **options)
        except urllib3.exceptions.HTTPError as error:
            raise DemoFailed(f"the service does not answer at {self.api}: {error}") from None
        if answer.status != 200:
            raise DemoFailed(f"{path} answered {answer.status}: {answer.data.decode(errors='replace')}")
        return dict(answer.json())

    def _keep(self, access: str) -> Path:
        """Write the header to a file, so that the token shows neither on the screen nor in the list of processes."""
        self._access = access
        file, unfinished = self.state / "authorization", self.state / "authorization.new"
        unfinished.touch(mode=0o600)
        unfinished.write_text(f"Authorization: Bearer {access}\n")
        unfinished.replace(file)
        return file

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def tell(demo: Demo, *, stay_up: bool) -> None:
    """The story: a first load, a check that finds nothing new, and an update that writes only what differs."""
    say(f"a local server plays cisa.gov at {demo.source.base}; it publishes the catalogue of 2026-07-27")
    say(f"`collectkit up` starts PostgreSQL, Valkey, a worker, a scheduler and the service; its log: {shown(demo.log)}")
    with demo.up() as process:
        began = time.monotonic()
        demo.wait_for_service(process)
        say(f"all of it runs after {time.monotonic() - began:.1f} s, on {demo.api}")
        authorization = demo.add_account()
        say(f"account {ACCOUNT!r} made; its token is in {shown(authorization)}. See for yourself, in another terminal:")
        say(f"    curl -s -H @{shown(authorization)} {demo.api}/collectors/api/v1/status | jq")

        say("")
        say("1. a collector that was never run is due at once, whatever its schedule: the first load")
        first = demo.wait_for_run()
        report(demo, first)

        say("2. somebody asks for a run; the source has nothing new, so only the watermark moves")
        demo.request_run()
        second = demo.wait_for_run(after=first["last_run"]["id"])
        report(demo, second)

        say("3. the source publishes the catalogue of 2026-08-04; the next run writes the rows that differ, no others")
        publish(demo.source, "2026-08-04")
        demo.request_run()
        report(demo, demo.wait_for_run(after=second["last_run"]["id"]))
        if stay_up:
            say("everything stays up and the collector checks each hour; Ctrl-C stops it all")
            stay(demo, process)
        say("stopping")
    say("stopped")


def report(demo: Demo, status: dict[str, Any]) -> None:
    """Say what the source answered, and what the service says of the run."""
    last = status["last_run"]
    fresh = "up to date" if status["is_up2date"] else "stale"
    say(f"   the source answered {demo.source.requests[-1].status}; run {last['id']} says: {last['result']}")
    say(f"   the data are {status['data']} and {fresh}, watermark {status['updated_until']}")
    say("")


def stay(demo: Demo, process: subprocess.Popen[bytes]) -> None:
    """Keep the token fresh until Ctrl-C."""
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(RENEWAL)
            with suppress(DemoFailed):  # the service may be starting again; a token outlives a few renewals
                demo.renew_token()
    except KeyboardInterrupt:
        return
    raise DemoFailed(f"`collectkit up` ended with code {process.returncode}; see {shown(demo.log)}")


def publish(source: Replay, version: str) -> None:
    """Have the source answer with this version from now on, as cisa.gov does: with an ETag, compressed on the way."""
    packed = (RECORDED / f"known_exploited_vulnerabilities.{version}.json.gz").read_bytes()
    source.answer(FEED, Answer.gzipped(gzip.decompress(packed), etag=f'"{version}"'))


@contextmanager
def fresh(state: Path) -> Iterator[None]:
    """Empty the directory if it is the demo's own, and hold it until the end of the block."""
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists() and not (state / MARKER).exists():
        raise DemoFailed(f"{shown(state)} was not made by the demo: move it away, or name another with --state-dir")
    state.mkdir(mode=0o700, exist_ok=True)
    with (state / MARKER).open("a") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(f"the demo already runs on {shown(state)}: stop that one first") from None
        for each in state.iterdir():
            if each.name != MARKER:
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        yield


def say(words: str) -> None:
    """Print a line at once, also into a pipe."""
    print(words, flush=True)


def shown(path: Path) -> str:
    """Name a path as somebody in the current directory would."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _collectkit(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "collectkit", *arguments]


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn: what lingers does not hinder it
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


def main() -> None:
    """Run the demo; exit code 1 and one line if something did not come about."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story instead of waiting for Ctrl-C")
    parser.add_argument("--state-dir", type=Path, default=ROOT / "var" / "demo", help="emptied at the start")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        state = options.state_dir.absolute()
        with fresh(state), Replay() as source:
            publish(source, "2026-07-27")
            tell(Demo(state, source), stay_up=not options.once)
    except DemoFailed as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
