"""Changes the core in small ways, one at a time, and counts those that the quick tests see: ``make mutation``.

mutmut makes the changes and runs the tests (``tool.mutmut`` in pyproject.toml); here are the servers that all its
processes share, the choice by lot, and the score. It does not change functions with a decorator, such as
``Run.checkpoint``: those have planted bugs. Nor the SQL of ``statements``: that is ``mutation_sql``'s.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code

from tests import mutation_sql
from tests.site import ROOT, Servers

MODULES = ("closing", "cron_fields", "ledger", "run", "schedule")
MUTMUT = Path(sys.executable).with_name("mutmut")
CAUGHT = ("killed", "timeout")


def mutants_of(module: str) -> list[str]:
    """The names of all changes that can be made to a module."""
    file = f"collectkit/{module}.py"
    made = mutate_file_contents(file, (ROOT / file).read_text("utf-8"))
    return [f"collectkit.{module}.{name}" for name in made.mutant_names]


def run(chosen: list[str], servers: Servers) -> None:
    """Make each of the changes, and have the tests that come by there run."""
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    environ = os.environ | {
        "COLLECTKIT_TEST_DATABASE_URL": servers.create_database("mutation"),
        "COLLECTKIT_TEST_BROKER_URL": servers.valkey.url,
    }
    # One at a time: each empties the database.
    subprocess.run([MUTMUT, "run", "--max-children=1", *chosen], cwd=ROOT, env=environ, check=True)


def results(module: str) -> dict[str, str]:
    """What became of each change of a module."""
    meta = json.loads((ROOT / f"mutants/collectkit/{module}.py.meta").read_text("utf-8"))
    return {name: status_by_exit_code[code] for name, code in meta["exit_code_by_key"].items()}


def report(module: str, names: list[str], known: int) -> None:
    """Print the score of a module, and each change that was not seen."""
    became = results(module)
    caught = sum(became[name] in CAUGHT for name in names)
    print(f"{module}: {caught} of {len(names)} caught ({caught / len(names):.1%}), by lot from {known}")
    for name in names:
        if became[name] not in CAUGHT:
            print(f"  {became[name]}: {name}", flush=True)
            subprocess.run([MUTMUT, "show", name], cwd=ROOT, check=False)


def main() -> None:
    size, seed = int(os.environ.get("MUTANTS") or 0), int(os.environ.get("SEED") or 1)
    began = time.monotonic()
    known = {module: mutants_of(module) for module in MODULES}
    chosen = {
        module: sorted(Random(f"{seed}/{module}").sample(names, min(size or len(names), len(names))))
        for module, names in known.items()
    }
    with tempfile.TemporaryDirectory(prefix="ck-") as path:
        home = Path(path)
        home.chmod(0o711)
        with Servers(home) as servers:
            run([name for names in chosen.values() for name in names], servers)
            mutation_sql.main(home, servers, size, seed)

    print(f"\nseed {seed}, {time.monotonic() - began:.0f} s")
    for module, names in chosen.items():
        report(module, names, len(known[module]))


if __name__ == "__main__":
    main()
