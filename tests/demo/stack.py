"""`collectkit up` as a child, below a directory of its own, and what the demo asks it: by HTTP, and as a library."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

import collectkit
from collectkit.children import spawn
from collectkit.settings import load_settings
from tests.demo.telling import shown

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "demo"
MARKER = ".collectkit-demo"
PATIENCE = 180.0


class DemoFailed(Exception):
    """Something did not come about; the message says what, and where to look."""


class Stack:
    """`collectkit up`, with its state below a directory.

    Attributes:
        log: what all its processes say.
        api: the address of the service.
    """

    def __init__(self, state: Path, environ: Mapping[str, str]) -> None:
        self.state = state
        self.bind = f"127.0.0.1:{_free_port(8000)}"
        self.api = f"http://{self.bind}"
        self.log = state / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=30)
        self._access = ""
        self._refresh = ""
        # Nothing that is set for collectors elsewhere holds here: another address of a source, a key, a switch.
        inherited = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("COLLECTKIT_") and "_COLLECTOR_" not in name
        }
        self.environ = {
            **inherited,
            "COLLECTKIT_STATE_DIR": str(state),
            "COLLECTKIT_BIND": self.bind,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **environ,
        }

    @contextmanager
    def up(self) -> Iterator[None]:
        """Run `collectkit up` while the block runs; it stops all that it has started."""
        with self.log.open("wb") as log:
            self._process = spawn(_collectkit("up"), environ=self.environ, cwd=ROOT, log=log)
        try:
            self.until(self._answers, lambda: "the service does not answer")
            collectkit.connect(load_settings(self.environ))
            try:
                yield
            finally:
                collectkit.disconnect()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._process.terminate()
            self._process.wait()

    def add_account(self) -> Path:
        """Make an account of the group public, and leave its token in a file that only this user can read."""
        password = secrets.token_urlsafe(24)
        words = ("user", "add", ACCOUNT, "--groups", "public", "--scopes", "read", "--password-stdin")
        done = subprocess.run(
            _collectkit(*words),
            env=self.environ,
            cwd=ROOT,
            input=password,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"`collectkit {shlex.join(words)}` failed: {done.stderr.strip()}")
        tokens = self._ask("POST", "/auth/token", json={"username": ACCOUNT, "password": password})
        self._refresh = tokens["refresh"]
        return self._keep(tokens["access"])

    def renew_token(self) -> None:
        """Put a new token into the file, before the old one expires."""
        self._keep(self._ask("POST", "/auth/token/refresh", json={"refresh": self._refresh})["access"])

    def status(self) -> dict[str, dict[str, Any]]:
        """Return how the collectors stand, as a monitor sees it."""
        return dict(self._read("/status")["collectors"])

    def runs(self, name: str, after: int) -> list[dict[str, Any]]:
        """Return the collector's runs that are newer than the given one, the oldest first."""
        found = self._read(f"/collectors/{name}/runs?limit=200")["runs"]
        return [run for run in reversed(found) if run["id"] > after]

    def until(self, holds: Callable[[], bool], missing: Callable[[], str]) -> None:
        """Return once it holds; fail with what is missing if that takes too long."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > give_up:
                raise DemoFailed(f"after {PATIENCE:.0f} s {missing()}; the log ends:\n{self._tail()}")
            self.wait(0.1)

    def wait(self, seconds: float) -> None:
        """Return after so long, or fail if `collectkit up` ends before."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise DemoFailed(f"`collectkit up` ended with code {code}; the log ends:\n{self._tail()}")

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/collectors/healthy")
        except DemoFailed:
            return False
        return True

    def _read(self, path: str) -> dict[str, Any]:
        return self._ask("GET", f"/collectors/api/v1{path}", headers={"Authorization": f"Bearer {self._access}"})

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
