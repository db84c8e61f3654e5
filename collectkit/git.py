"""Git for sources: a repository's newest files, and those that differ from a commit that was seen before."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from logging import LoggerAdapter
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from collectkit.clone import HEAD, bring_up_to_date, place, remove
from collectkit.database import settings_in_force
from collectkit.errors import FetchError
from collectkit.gitprocess import Git, GitFailed
from collectkit.redaction import redact
from collectkit.rejection import Rejected

GIB = 1 << 30
_LARGEST_FILE = 64 << 20
_PIECE = 1 << 16
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # known to every git


class Asking(Protocol):
    """What ``fetch_git`` looks at in a ``Run``."""

    @property
    def log(self) -> LoggerAdapter[Any]:
        """Told when a clone is made anew."""


class Repository:
    """A repository as it was found, within the ``with`` of ``fetch_git``.

    Attributes:
        url: the address, without what may be secret in it.
        commit: the id of the commit that HEAD names, whatever the branch: the cursor for the next time.
        committed_at: when that was made, as it says itself.
        since: the commit that was seen before, if it is known; None otherwise, and then every file counts as new.
    """

    def __init__(self, git: Git, url: str, since: str | None) -> None:
        self._git = git
        self._changes = git.directory.with_name("changes")
        self._changes.unlink(missing_ok=True)
        self.url = url
        self.since = since
        self.commit, made = git.ask("show", "--no-patch", "--format=%H %ct", HEAD).split()
        self.committed_at = datetime.fromtimestamp(int(made), UTC)

    @property
    def unchanged(self) -> bool:
        """Whether HEAD is the commit that was seen before."""
        return self.commit == self.since

    def files(self, pattern: str = "") -> Iterator[tuple[str, bytes | Rejected]]:
        """Yield path and content of the files that are new or other than in ``since``, in the order of their paths.

        They are read as they are asked for: memory stays flat. One of more than 64 MiB comes out rejected.

        Arguments:
            pattern: a regular expression that is searched in the path, from the top of the repository.
        """
        with TemporaryFile(dir=self._changes.parent) as wanted:
            for blob, _, _ in self._changed(pattern):
                if blob:
                    wanted.write(blob + b"\n")
            wanted.seek(0)
            paths = (path for blob, _, path in self._changed(pattern) if blob)
            yield from zip(paths, self._git.bodies(wanted, _LARGEST_FILE), strict=True)

    def gone(self, pattern: str = "") -> Iterator[str]:
        """Yield the paths of the files that were in ``since`` and are no more; a renamed file is gone, and new."""
        return (path for blob, was_file, path in self._changed(pattern) if was_file and not blob)

    def paths(self, pattern: str = "") -> Iterator[str]:
        """Yield the paths of all files."""
        matches = re.compile(pattern).search
        with TemporaryFile(dir=self._changes.parent) as listing:
            self._git.run("ls-tree", "-r", "-z", "--name-only", self.commit, into=listing)
            yield from filter(matches, map(_text, _fields(listing)))

    def _changed(self, pattern: str) -> Iterator[tuple[bytes, bool, str]]:
        """Yield for each path the blob that is there now, or nothing, and whether there was one before."""
        if not self._changes.exists():
            with self._changes.open("wb") as into:
                self._git.run(
                    "diff-tree", "-r", "-z", "--raw", "--no-renames", self.since or _EMPTY_TREE, self.commit, into=into
                )
        matches = re.compile(pattern).search
        with self._changes.open("rb") as changes:
            fields = _fields(changes)
            for told, name in zip(fields, fields, strict=True):
                path = _text(name)
                if matches(path):
                    old_mode, new_mode, _, blob, _ = told.split(b" ")
                    # Neither symbolic links nor submodules are files.
                    yield blob if new_mode.startswith(b"100") else b"", old_mode.startswith(b":100"), path


@contextmanager
def fetch_git(
    run: Asking,
    url: str,
    *,
    since: str | None = None,
    timeout: timedelta = timedelta(minutes=30),
    max_bytes: int = 8 * GIB,
) -> Iterator[Repository]:
    r"""Bring a clone of the repository up to date before a checkpoint opens; within the ``with`` its files can be read.

    ::

        with fetch_git(run, settings.url, since=run.meta_attr.get("commit")) as repository:
            if repository.unchanged:
                run.store(updated_until_dt=run.started_at)
                return "unchanged"
            with run.checkpoint(updated_until_dt=run.started_at, meta_attr={"commit": repository.commit}) as batch:
                rows = (read(body) for path, body in repository.files(r"\.json$"))
                if repository.since is None:
                    return str(batch.replace(Advisory, rows))
                return str(batch.upsert(Advisory, rows))

    The clone is shallow and without a working tree, and lies below ``git`` in the state directory: whoever deletes it
    loses nothing but the time to make it again. Whatever is wrong with it, half made, locked or broken, a new one takes
    its place as soon as the source gives one. The program ``git`` does the work, with the operator's configuration:
    proxies, certificates and keys are found where git looks for them. It is ended with the run, whatever ends that.

    Arguments:
        run: the run that asks.
        url: http, https, ssh, git, file, or a path; user and password of http and https are sent as a header,
            and then no redirect is followed; none from https to http is ever.
        since: the commit that is to be compared with. If neither the clone nor the source knows it, all files are new.
        timeout: the limit of everything together, reading included.
        max_bytes: the limit of the clone on disk.

    Raises:
        FetchError: in one line, without secrets: there is no git, the source cannot be reached, is no repository, has
            no commit, sends too much or is too slow. The old rows stand.
    """
    shown = redact(url) if "://" in url else url
    home = settings_in_force().state_dir / "git" / hashlib.sha256(url.encode()).hexdigest()[:16]
    with place(home, shown) as (here, lock):
        ends = time.monotonic() + timeout.total_seconds()

        def git(name: str) -> Git:
            return Git(here / name, url=url, shown=shown, ends=ends, max_bytes=max_bytes, inherited=lock)

        clone, known = git("clone"), None
        try:
            known = bring_up_to_date(clone, git("new"), since, run.log)
        except GitFailed as failure:
            raise FetchError(shown, str(failure)) from None
        try:
            yield Repository(clone, shown, known)
        except GitFailed as failure:
            remove(clone.directory)
            raise FetchError(shown, f"the clone is broken and will be made anew ({failure})") from None


def _fields(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what stands between NUL characters, from the beginning of the file."""
    file.seek(0)
    rest = b""
    while piece := file.read(_PIECE):
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole


def _text(path: bytes) -> str:
    return path.decode(errors="surrogateescape")
