"""Wrong variants of the core, each a few words away from the right one, and what must catch it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.chaos.cases import Case
from tests.chaos.matrix import lanes, play_all
from tests.site import ROOT

SEEDS = 4
_PATIENCE = 25.0
_VERDICT = re.compile(r"FAILED |\d+ (passed|failed|error).* in [\d.]+s")


class Bug(NamedTuple):
    """A wrong variant.

    Attributes:
        words: what is wrong with it.
        file: of ``collectkit/``.
        changes: texts, each of which must be there once, and what stands in their place.
        catchers: cases of the matrix, and tests, of which one at least must fail.
    """

    words: str
    file: str
    changes: tuple[tuple[str, str], ...]
    catchers: tuple[str, ...]

    def plant(self, tree: Path) -> None:
        """Make a copy of the project with this bug in it.

        Raises:
            AssertionError: the text is not there any more: the bug has to be written anew.
        """
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "var", "docs", "requirements"))
        file = tree / "collectkit" / self.file
        text = file.read_text()
        for old, new in self.changes:
            assert text.count(old) == 1, f"{self.words}: {old!r} is {text.count(old)} times in {self.file}"
            text = text.replace(old, new)
        file.write_text(text)

    def caught_by(self, home: Path, seed: int) -> str | None:
        """Return which catcher caught it, and in what words; None if none did."""
        tree = home / "tree"
        self.plant(tree)
        cases = [Case(*each.split("/")) for each in self.catchers if not each.startswith("tests/")]
        if cases and (complaint := _of_the_matrix(home / "site", tree, cases, seed)):
            return complaint
        tests = [each for each in self.catchers if each.startswith("tests/")]
        return _of_the_tests(tree, tests) if tests else None


def _of_the_matrix(home: Path, tree: Path, cases: list[Case], seed: int) -> str | None:
    home.mkdir(mode=0o711)
    with lanes(home, 1, library=tree) as on:
        for number in range(SEEDS):
            played = play_all(on, cases, seed + number, patience=_PATIENCE)
            if played.broken:
                return f"{played.broken[0]}"
    return None


def _of_the_tests(tree: Path, tests: list[str]) -> str | None:
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # Not until it ends, but until it has said how it went: a bug may leave a lock taken, and who takes locks on its
        # way out then never ends.
        for line in process.stdout:
            said.append(line)
            if _VERDICT.match(line):
                break
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        process.kill()
    failed = [line.strip() for line in said if line.startswith("FAILED")]
    assert failed or process.returncode == 0, "".join(said)
    return failed[0].removeprefix("FAILED ") if failed else None
