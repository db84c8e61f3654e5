"""A real git repository on this machine that plays the source of a test or of the demo."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from zipfile import ZipFile

BRANCH = "trunk"


class Upstream:
    """A bare repository; each ``publish`` is a commit that holds these files and no others.

    >>> upstream = Upstream(tmp_path / "upstream")
    >>> commit = upstream.publish({"cves/2024/0xxx/CVE-2024-0001.json": b"{}"})
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"file://{directory}"
        self.git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(directory))

    def publish(
        self,
        files: Mapping[str | bytes, bytes],
        *,
        at: datetime = datetime(2024, 10, 21, tzinfo=UTC),
        branch: str = BRANCH,
        mode: str = "100644",
        anew: bool = False,
    ) -> str:
        """Commit the files and return the commit's id.

        Arguments:
            at: when, by the committer's clock.
            mode: of each file: ``120000`` is a symbolic link, ``160000`` a submodule, whose content is a commit's id.
            anew: the commit has no parent: the history is rewritten.
        """
        ref = f"refs/heads/{branch}"
        known = not anew and self.git("for-each-ref", ref)
        stream = [f"commit {ref}\ncommitter Somebody <x@example.com> {at.timestamp():.0f} +0000\ndata 0\n".encode()]
        stream += [f"from {ref}^0\ndeleteall\n".encode()] if known else []
        for path, body in files.items():
            name = b'"' + os.fsencode(path).replace(b"\n", rb"\n") + b'"'
            if mode == "160000":
                stream.append(b"M 160000 %b %b\n" % (body, name))
            else:
                stream.append(b"M %b inline %b\ndata %d\n%b\n" % (mode.encode(), name, len(body), body))
        self.git("fast-import", "--quiet", "--force", says=b"".join(stream))
        return self.git("rev-parse", ref)

    def show(self, commit: str, *, branch: str = BRANCH) -> None:
        """Have the branch name another commit."""
        self.git("update-ref", f"refs/heads/{branch}", commit)

    def git(self, *arguments: str, says: bytes = b"") -> str:
        """Run git on the repository and return what it prints."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *arguments],
            env={**inherited, "GIT_DIR": str(self.directory)},
            input=says,
            stdout=subprocess.PIPE,
            check=True,
        )
        return done.stdout.decode().strip()


def files_of(recorded: Path) -> dict[str | bytes, bytes]:
    """Return what a recorded ZIP holds, by path."""
    with ZipFile(recorded) as packed:
        return {name: packed.read(name) for name in packed.namelist() if not name.endswith("/")}
