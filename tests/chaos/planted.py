"""Wrong variants of the core, each a few words away from the right one, and what must catch it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tests.chaos.cases import Case
from tests.chaos.lane import Lane
from tests.chaos.matrix import lanes, play_all
from tests.site import ROOT

SEEDS = 4
IN_FULL = {"tests/chaos/test_clock_changes.py", "tests/chaos/test_recovery_time.py"}
"""Files whose tests have no short form."""

_PATIENCE = 25.0
_VERDICT = re.compile(r"FAILED |\d+ (passed|failed|error).* in [\d.]+s")
_FAILED = re.compile(r"FAILED (\S+) - (.*)")
# A time limit, or servers that did not start: nothing is known of the core then. An error that the database raises does
# count, for a constraint of the ledger is a law too; that it is not the test's own the right tree shows.
_OF_THE_TEST = re.compile(
    r"Failed: Timeout|([\w.]+\.)?(NotPlayed|EmbeddedServerError|TimeoutExpired|OSError|FileNotFoundError)\b"
)


class Bug(NamedTuple):
    """A wrong variant.

    Attributes:
        words: what is wrong with it.
        file: of ``collectkit/``.
        changes: texts, each of which must be there once, and what stands in their place.
        catchers: cases of the matrix, of which one must fail, and tests, each of which must.
    """

    words: str
    file: str
    changes: tuple[tuple[str, str], ...]
    catchers: tuple[str, ...]

    @property
    def cases(self) -> list[Case]:
        """Those of its catchers that are cases."""
        return [Case(*each.split("/")) for each in self.catchers if not each.startswith("tests/")]

    @property
    def tests(self) -> list[str]:
        """Those that are tests."""
        return [each for each in self.catchers if each.startswith("tests/")]

    def plant(self, tree: Path) -> None:
        """Make a copy of the project with this bug in it.

        Raises:
            AssertionError: the text is not there any more: the bug has to be written anew.
        """
        _copy_to(tree)
        Path(tree, "collectkit", self.file).write_text(self.text())

    def text(self) -> str:
        """Return what the file says with this bug in it.

        Raises:
            AssertionError: as ``plant``.
        """
        text = Path(ROOT, "collectkit", self.file).read_text()
        for old, new in self.changes:
            assert text.count(old) == 1, f"{self.words}: {old!r} is {text.count(old)} times in {self.file}"
            text = text.replace(old, new)
        return text

    def caught_by(self, home: Path, seed: int, control: Control) -> list[str] | None:
        """Return in what words each catcher caught it; None if one did not that must.

        Raises:
            AssertionError: what caught it fails without the bug too, or a test failed by a fault of its own.
        """
        tree = home / "tree"
        self.plant(tree)
        caught = []
        if self.cases:
            complaint = _of_the_matrix(home / "site", tree, self.cases, seed, control)
            if complaint is None:
                return None
            caught.append(complaint)
        for test in self.tests:
            failed = of_the_test(tree, test)
            if failed is None:
                return None
            control.passes_test(failed[0])
            caught.append(": ".join(failed))
        return caught


class Control:
    """The right tree, under the same conditions: what fails for it too has caught nothing.

    Arguments:
        home: where a copy of the project may be made.
        lane: at rest, and nobody else's.
    """

    def __init__(self, home: Path, lane: Lane) -> None:
        self._tree = home / "right"
        self._lane = lane
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        self._passed: set[object] = set()

    def passes_case(self, case: Case, seed: int) -> None:
        """Play the case, unless it has been played.

        Raises:
            AssertionError: it failed.
        """
        with self._locks["lane"]:
            if (case, seed) not in self._passed:
                played = play_all([self._lane], [case], seed, patience=_PATIENCE)
                assert [*played.broken, *played.not_played] == [], "the right tree fails too"
                self._passed.add((case, seed))

    def passes_test(self, test: str) -> None:
        """Run the test, unless it has been run.

        Raises:
            AssertionError: it failed.
        """
        with self._locks["tree"]:
            if not self._tree.exists():
                _copy_to(self._tree)
        with self._locks[test]:
            if test not in self._passed:
                failed = of_the_test(self._tree, test)
                assert failed is None, f"the right tree fails too: {failed}"
                self._passed.add(test)


def _copy_to(tree: Path) -> None:
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "var", "docs", "requirements"))


def _of_the_matrix(home: Path, tree: Path, cases: list[Case], seed: int, control: Control) -> str | None:
    home.mkdir(mode=0o711)
    with lanes(home, 1, library=tree) as on:
        for one_seed in range(seed, seed + SEEDS):
            for case in cases:
                played = play_all(on, [case], one_seed, patience=_PATIENCE)
                assert played.not_played == [], "no law was broken, but the case did not come about"
                if played.broken:
                    control.passes_case(case, one_seed)
                    return played.broken[0]
    return None


def is_in_full(test: str) -> bool:
    """Tell whether the test has no short form."""
    return test.partition("::")[0] in IN_FULL


def of_the_test(tree: Path, test: str) -> tuple[str, str] | None:
    """Run the test, short if it can be, in this copy of the project; return what failed and why, None if nothing did.

    Raises:
        AssertionError: it did not come to its verdict, or a fault of the test itself kept it from one.
    """
    said: list[str] = []
    environ = {name: value for name, value in os.environ.items() if name not in {"CHAOS", "SEEDS", "KILLS", "ONLY"}}
    if is_in_full(test):
        environ["CHAOS"] = "1"
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=600", test],
        cwd=tree,
        env=environ | {"COLUMNS": "500"},
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
    failed = next((found for line in said if (found := _FAILED.match(line))), None)
    if failed is None:
        assert process.returncode == 0, "".join(said)
        return None
    assert not _OF_THE_TEST.match(failed[2]), f"{failed[0]}: a fault of the test itself"
    return failed[1], failed[2]
