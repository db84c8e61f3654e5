"""The reference has all that the code has: settings, commands, arguments, attributes, errors, and nothing else."""

from __future__ import annotations

import builtins
import inspect
import json
import re
from datetime import timedelta

import msgspec
import typer

import collectkit
from collectkit import cli
from collectkit.discovery import discover
from collectkit.settings import CollectorSettings, Settings, load_settings
from tests.site import ROOT


def test_every_setting_is_in_the_reference_and_nothing_else_is():
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(COLLECTKIT_(?!TEST_)\w+)` \|", page, re.MULTILINE))

    assert documented == {f"COLLECTKIT_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}


def test_the_defaults_in_the_reference_are_those_of_the_code():
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(COLLECTKIT_(?!TEST_)\w+)` \| (\S+) \|", page, re.MULTILINE))
    stated = {name: text.strip("`") for name, text in rows.items() if text != "unset"}

    assert load_settings(stated) == load_settings({})
    assert {name for name, text in rows.items() if text == "unset"} == {
        f"COLLECTKIT_{field.name.upper()}" for field in msgspec.structs.fields(Settings) if field.default is None
    }


def test_every_setting_of_a_shipped_collector_is_in_the_reference():
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    discover(["collectors"])
    shipped = [each for each in CollectorSettings.__subclasses__() if each.__module__.startswith("collectors.")]

    assert shipped
    for each in shipped:
        prefix = each.__module__.split(".")[1].upper()
        for field in msgspec.structs.fields(each):
            assert f"`{prefix}_COLLECTOR_{field.name.upper()}`" in page


def commands(group, prefix="collectkit"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def test_every_command_and_option_is_in_the_reference_and_nothing_else_is():
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    titles = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    known = dict(commands(typer.main.get_command(cli.app)))

    assert sorted(titles) == sorted(known)
    for name, command in known.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        section = page.partition(f"### `{name}`")[2].partition("\n##")[0]
        assert {option for option in options - {"--json"} if f"`{option}`" not in section} == set(), name


def test_every_argument_of_a_collector_is_in_the_reference_with_its_default():
    page = (ROOT / "docs/reference/collector.md").read_text("utf-8").partition("## `@collector`")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page.partition("\n## ")[0], re.MULTILINE))
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(collectkit.collector).parameters.items()
    }
    in_words = {timedelta(hours=1): "1 hour", (timedelta(seconds=30), timedelta(minutes=15)): "30 seconds, 15 minutes"}

    assert rows == {
        name: in_words.get(value) or f"`{json.dumps(value) if isinstance(value, str) else value}`"
        for name, value in defaults.items()
    }


def test_every_attribute_and_call_of_a_run_is_in_the_reference():
    page = (ROOT / "docs/reference/collector.md").read_text("utf-8").partition("\n## Run\n")[2].partition("\n## ")[0]
    calls = [name for name in vars(collectkit.Run) if not name.startswith("_")]
    attributes = re.findall(r"self\.([a-z]\w*) = ", inspect.getsource(collectkit.Run.__init__))

    assert len(attributes) > 10
    assert [name for name in calls if f"| `{name}(" not in page] == []
    assert [name for name in attributes if f"`{name}`" not in page] == []


def test_every_error_that_a_public_docstring_names_can_be_caught_by_its_name():
    public = [getattr(collectkit, name) for name in collectkit.__all__]
    methods = [
        method for each in public if inspect.isclass(each) for name, method in vars(each).items() if name[0] != "_"
    ]
    sections = [(inspect.getdoc(each) or "").partition("Raises:")[2] for each in [*public, *methods]]
    named = {
        name for section in sections for name in re.findall(r"\b([A-Z]\w+(?:Error|Refused|Unavailable))\b", section)
    }

    assert {"LoadError", "CheckpointRefused", "DatabaseUnavailable"} <= named
    assert {name for name in named if not hasattr(collectkit, name) and not hasattr(builtins, name)} == set()
