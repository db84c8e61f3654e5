"""Changes the ledger's SQL in small ways, one at a time, and counts those that tests see; ``make mutation`` runs it.

To a tool for Python a statement is a piece of text. Here it is read for what decides in it: comparisons, the smaller
and the larger of two, clocks, locks, what is null and what is added. Each place is changed alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.site import ROOT, Servers

FILE = "collectkit/statements.py"
CHANGES = (
    (r" AND (?!clock_timestamp|%|pg_)", " OR "),
    (r" OR ", " AND "),
    (r"<=", "<"),
    (r"(?<=[\w)]) < ", " <= "),
    (r"(?<=[\w)]) > ", " >= "),
    (r"(?<=[\w)]) = (?=%|ANY|c\.|p\.|h\.|m\.|r\.)", " <> "),
    (r"\bleast\(", "greatest("),
    (r"\bgreatest\(", "least("),
    (r"clock_timestamp\(\)", "now()"),
    (r"NOT BETWEEN", "BETWEEN"),
    (r"IS NOT DISTINCT FROM", "IS DISTINCT FROM"),
    (r"IS DISTINCT FROM", "IS NOT DISTINCT FROM"),
    (r"IS NULL", "IS NOT NULL"),
    (r"IS NOT NULL", "IS NULL"),
    (r"NOT EXISTS", "EXISTS"),
    (r" (?:OF c )?SKIP LOCKED", ""),
    (r" FOR NO KEY UPDATE(?: OF c)?(?: SKIP LOCKED)?", ""),
    (r" \+ 1\b", " + 0"),
    (r"= NULL\b", "= {}"),
    (r"'COMPLETE'", "'PARTIAL'"),
    (r"3 \* ", "0 * "),
    (r" - %\((removed|dropped)\)s::text\[\]", ""),
    (r" \|\| ", " - "),
    (r"LEFT JOIN", "JOIN"),
)
TESTS = (
    *(f"tests/integration/test_{name}.py" for name in ("ledger", "fencing", "closing", "rewind", "run", "run_view")),
    *(f"tests/integration/test_{name}.py" for name in ("progress", "migrate", "new_plan", "locked_rows")),
    "tests/integration/test_endings.py",
    "tests/chaos/test_clock.py",
)
PATIENCE = 600


class Mutant(NamedTuple):
    """One place, changed: in which statement, at which line, from what to what."""

    statement: str
    line: int
    old: str
    new: str
    text: str

    def __str__(self) -> str:
        return f"{self.statement}, line {self.line}: {self.old.strip()!r} becomes {self.new.strip()!r}"


def mutants() -> list[Mutant]:
    """All changes that can be made, in the order of the file."""
    text = (ROOT / FILE).read_text("utf-8")
    made = []
    for statement in re.finditer(r'^(\w+) = f?"(?:"")?(.*?)"(?:"")?$', text, re.MULTILINE | re.DOTALL):
        for pattern, new in CHANGES:
            for found in re.finditer(pattern, statement[2]):
                start, end = statement.start(2) + found.start(), statement.start(2) + found.end()
                # A column that is set to nothing keeps what it has.
                alias = "c." if "collectkit.collector c\n" in text[statement.start() : start] else ""
                put = new.format(alias + re.findall(r"(\w*)\s*$", text[:start])[0])
                changed = text[:start] + put + text[end:]
                made.append(Mutant(statement[1], text.count("\n", 0, start) + 1, found[0], put, changed))
    return sorted(set(made), key=lambda mutant: (mutant.line, mutant.old, mutant.text))


def caught_by(mutant: Mutant, tree: Path, environ: dict[str, str]) -> str | None:
    """Return the first test that sees the change; None if none does."""
    (tree / FILE).write_text(mutant.text, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return "nothing ended"
    if done.returncode == 0:
        return None
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed[0] if failed else done.stdout[-300:] + done.stderr[-300:]


def main(home: Path, servers: Servers, size: int, seed: int) -> None:
    """Try the mutants, or so many of them by lot, and print the score."""
    tree = home / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "var", "build", "mutants"))
    environ = os.environ | {
        "COLLECTKIT_TEST_DATABASE_URL": servers.create_database("mutation"),
        "COLLECTKIT_TEST_BROKER_URL": servers.valkey.url,
    }
    known = mutants()
    chosen = Random(f"{seed}/sql").sample(known, min(size or len(known), len(known)))
    unchanged = Mutant("none", 0, "", "", (ROOT / FILE).read_text("utf-8"))
    assert caught_by(unchanged, tree, environ) is None, "the tests fail without any change"
    left = []
    for mutant in chosen:
        by = caught_by(mutant, tree, environ)
        print(f"  {mutant}: {by or 'NOT CAUGHT'}", flush=True)
        if by is None:
            left.append(mutant)
    caught = len(chosen) - len(left)
    print(f"statements: {caught} of {len(chosen)} caught ({caught / len(chosen):.1%}), by lot from {len(known)}")
