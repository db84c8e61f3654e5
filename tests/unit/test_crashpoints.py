"""The crash points that are named are those that the code comes by, and in production they do nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

from collectkit import crashpoints
from tests.chaos.cases import FAULTS, matrix

LIBRARY = Path(crashpoints.__file__).parent


def reached_in_the_code():
    for file in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                yield node.args[0].value


def test_each_point_is_at_one_place_and_each_place_has_a_name():
    assert sorted(reached_in_the_code()) == sorted(get_args(crashpoints.Point))


def test_each_fault_strikes_at_each_point_where_there_is_something_to_strike():
    struck = {(case.point, case.fault) for case in matrix()}

    points = get_args(crashpoints.Point)
    unconnected = {("start.setup", "cut")} | {
        (point, "broker") for point in points if point.startswith(("migrate.", "reconcile.", "retire."))
    }
    assert {(point, fault) for point in points for fault in FAULTS} - struck == unconnected


def test_a_process_that_is_not_told_otherwise_goes_on():
    assert crashpoints.reached("claim.before", "tests.one") is None
    assert crashpoints.reached.__module__ == "collectkit.crashpoints"


def test_the_environment_names_the_function_to_call_instead():
    done = subprocess.run(
        [sys.executable, "-c", "from collectkit.crashpoints import reached; reached('claim.before')"],
        env={"COLLECTKIT_CRASHPOINTS": "builtins:print"},
        cwd=LIBRARY.parent,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "claim.before\n"
