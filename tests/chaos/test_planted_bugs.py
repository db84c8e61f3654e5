"""The checkers see: wrong variants of the core are caught, each by a case or a test that the right one passes."""

from __future__ import annotations

import ast
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.bugs import BUGS
from tests.chaos.planted import Control, is_in_full
from tests.site import ROOT

AT_A_TIME = 3
SHARE = {
    "a lost run that counts no attempt",
    "the rows before the watermark, in a transaction of their own",
}


def test_every_planted_bug_is_caught_and_nothing_without_one(home, one_lane, scale):
    bugs = [bug for bug in BUGS if scale.full or bug.words in SHARE]
    bugs.sort(key=lambda bug: not any(is_in_full(test) for test in bug.tests))  # those that take minutes go first

    control = Control(home, one_lane)

    def catch(number):
        place = home / f"b{number}"
        place.mkdir(mode=0o711)
        return bugs[number].caught_by(place, scale.seed, control)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        caught = dict(zip((bug.words for bug in bugs), pool.map(catch, range(len(bugs))), strict=True))
    for words, by in caught.items():
        print(f"  {words}:", *(by or ["NOT CAUGHT"]), sep="\n    ")

    assert [words for words, by in caught.items() if by is None] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.words)
def test_the_place_of_every_bug_is_still_there(bug):
    ast.parse(bug.text())


def test_the_documentation_names_every_planted_bug_and_what_caught_it():
    page = (ROOT / "docs/explanation/reliability.md").read_text("utf-8")
    table = page.partition("| the bug | what caught it |\n|---|---|\n")[2].partition("\n\n")[0]

    rows = {words: by.split("`, `") for words, by in re.findall(r"^\| (.+) \| `(.+)` \|$", table, re.MULTILINE)}

    assert list(rows) == [bug.words for bug in BUGS]
    for bug in BUGS:
        by = rows[bug.words]
        assert [each for each in by if each.startswith("tests/")] == bug.tests, bug.words
        assert len(by) - len(bug.tests) == bool(bug.cases), bug.words
        assert set(by) <= set(bug.catchers), bug.words
    assert f"{len(BUGS)} wrong variants" in page
    assert f"All {len(BUGS)} were caught" in page
