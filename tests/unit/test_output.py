"""Tables for people: what they show is what they were given, all of it."""

from __future__ import annotations

import os
import pty
import re
import sys

import pytest

from collectkit.output import table

TITLES = ["collector", "data", "updated until", "last error"]
ROWS = [
    ["collectors.one.tasks.one_collector", "COMPLETE", "2026-11-24 23:30:44Z", "-"],
    ["collectors.two.tasks.two_collector", "PARTIAL", "2026-11-24 23:31:07Z", "it broke, " * 9 + "for ever"],
]


def read(terminal):
    """What comes next on it, nothing at its end, which is an error to Linux."""
    try:
        return os.read(terminal, 65536).decode()
    except OSError:
        return ""


@pytest.fixture
def on_terminal(monkeypatch):
    """Prints a table on a terminal of that many columns, and gives the lines on it."""

    def show(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")  # of a dumb one nobody asks the width
        reads, writes = pty.openpty()
        with os.fdopen(writes, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            table(TITLES, ROWS)
        shown = "".join(iter(lambda: read(reads), ""))
        os.close(reads)
        return [line.rstrip() for line in re.sub(r"\x1b\[\d*m", "", shown).splitlines()]

    return show


def test_a_cell_is_shown_as_it_is_whatever_it_looks_like(capsys):
    """Names of instances and what a source said have brackets; rich would take them for styles, or fail on them."""
    texts = ["osv[crates.io]", "begins with '[/b]'", "[red]", "10:warning:", r"a\[b]"]

    table(["what"], [[text] for text in texts])

    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["what", *texts]


def test_on_a_wide_terminal_a_row_stands_beside_its_titles_and_a_long_cell_takes_several_lines(on_terminal):
    titles, one, two, *more = on_terminal(120)

    assert titles.split() == ["collector", "data", "updated", "until", "last", "error"]
    assert one.split() == [ROWS[0][0], "COMPLETE", "2026-11-24", "23:30:44Z", "-"]
    assert two.startswith(f"{ROWS[1][0]}  PARTIAL   2026-11-24 23:31:07Z  it broke,")
    assert " ".join([two, *more]).split()[-2:] == ["for", "ever"]


def test_on_a_narrow_terminal_each_row_has_a_block_and_nothing_is_cut(on_terminal):
    lines = on_terminal(60)

    assert lines[:3] == [ROWS[0][0], "  data           COMPLETE", "  updated until  2026-11-24 23:30:44Z"]
    assert lines[3:6] == [ROWS[1][0], "  data           PARTIAL", "  updated until  2026-11-24 23:31:07Z"]
    assert lines[6].startswith("  last error     it broke,")
    assert " ".join(lines[6:]).split() == ["last", "error", *ROWS[1][3].split()]
    assert max(map(len, lines)) <= 60
