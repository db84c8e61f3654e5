"""A clone of a git repository on the disk: held by one process at a time, brought up to date, or made anew."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging import LoggerAdapter
from pathlib import Path
from typing import IO, Any

from collectkit.errors import FetchError
from collectkit.gitprocess import SILENCE_SECONDS, Git, GitFailed

HEAD = "refs/collectkit/head"
_SINCE = "refs/collectkit/since"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Said of the first request, which tells nothing of the clone: that has no part in it, and need not be had again.
_AWAY = re.compile(r"unable to access 'https?://")
# A process that is stopped keeps its clone: whoever comes after it works in another one. Together with the lease of a
# run that was killed, the wait outlasts what that has left behind.
_PLACES = 4
_PATIENCE = SILENCE_SECONDS / 2


@contextmanager
def place(home: Path, shown: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """Hold a directory that nobody else works in, not even a git whose parent was killed."""
    for number in range(_PLACES):
        here = home / str(number)
        if lock := _lock(here, 0 if number else _PATIENCE):
            with lock:
                for spare in range(number + 1, _PLACES):
                    _clear(home / str(spare))
                yield here, lock
            return
    raise FetchError(shown, f"processes that were stopped hold all clones below {home}: end them")


def _lock(here: Path, seconds: float) -> IO[bytes] | None:
    """Return the open file that holds the place until it is closed; None if somebody else holds it for so long."""
    here.mkdir(parents=True, exist_ok=True)
    lock = (here / "lock").open("ab")
    give_up = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                lock.close()
                return None
            time.sleep(0.1)
        else:
            return lock


def _clear(here: Path) -> None:
    """Give the disk back that a place takes which nobody needs any more."""
    if here.exists() and (lock := _lock(here, 0)):
        with lock:
            remove(here / "clone")
            remove(here / "new")


def bring_up_to_date(clone: Git, fresh: Git, since: str | None, log: LoggerAdapter[Any]) -> str | None:
    """Update the clone, or put a new one in its place; return ``since`` if it has that commit."""
    reason: GitFailed | None = None
    if clone.directory.exists():
        try:
            return _update(clone, since)
        except GitFailed as failure:
            if _AWAY.search(str(failure)):
                raise
            reason = failure
    remove(fresh.directory)
    try:
        fresh.run("init", "--quiet", "--bare", "--template=")
        known = _update(fresh, since)
    except BaseException:  # an interrupt too: half a clone is of no use to the next run
        remove(fresh.directory)
        raise
    if reason:
        log.warning("the clone was made anew: %s", reason)
        remove(clone.directory)
    fresh.directory.rename(clone.directory)
    return known


def _update(git: Git, since: str | None) -> str | None:
    _fetch(git, "HEAD", HEAD)
    known = since if since is not None and _COMMIT.fullmatch(since) and _has(git, since) else None
    if known:
        git.run("update-ref", _SINCE, known)  # or it would be cleared away before it was compared with
    git.run("gc", "--auto", "--quiet")
    git.check_size()
    return known


def _has(git: Git, commit: str) -> bool:
    try:
        git.run("cat-file", "-e", f"{commit}^{{tree}}")
    except GitFailed:
        # Another host has run meanwhile, or the clone is new: a source that still has it gives it.
        try:
            _fetch(git, commit, _SINCE)
        except GitFailed:
            return False
    return True


def _fetch(git: Git, what: str, ref: str) -> None:
    options = ("--quiet", "--depth=1", "--no-tags", "--no-auto-gc", "--no-write-fetch-head")
    git.run("fetch", *options, "origin", f"+{what}:{ref}")


def remove(directory: Path) -> None:
    """The directory is gone, or as much of it as can go."""
    shutil.rmtree(directory, ignore_errors=True)
