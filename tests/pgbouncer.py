"""A real PgBouncer in transaction mode before the test database; none is there unless the program is on the PATH."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from collectkit.embedded.postgres import _become_nobody

PROGRAM = which("pgbouncer")


@contextmanager
def pgbouncer(url: str, directory: Path, sessions: int) -> Iterator[str]:
    """Give the address of a PgBouncer that serves all comers with so many sessions of this database."""
    assert PROGRAM is not None
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    place = " ".join(f"{name}={parts[name]}" for name in ("host", "port", "dbname") if name in parts)
    (directory / "users").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    (directory / "ini").write_text(
        f"[databases]\npooled = {place}\n[pgbouncer]\nunix_socket_dir = {directory}\nlisten_port = 6432\n"
        f"auth_type = plain\nauth_file = {directory}/users\npool_mode = transaction\ndefault_pool_size = {sessions}\n"
        "ignore_startup_parameters = extra_float_digits,options\n"
    )
    user, password = quote(parts["user"], safe=""), quote(parts["password"], safe="")
    address = f"postgresql://{user}:{password}@/pooled?host={quote(str(directory), safe='')}&port=6432"
    with (directory / "log").open("wb") as log:
        # It refuses to run as root, as PostgreSQL does.
        become = _become_nobody if os.geteuid() == 0 else None
        running = subprocess.Popen([PROGRAM, str(directory / "ini")], preexec_fn=become, stdout=log, stderr=log)  # noqa: PLW1509
    try:
        _wait_for(address, running, directory / "log")
        yield address
    finally:
        running.kill()
        running.wait()


def _wait_for(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        else:
            return
