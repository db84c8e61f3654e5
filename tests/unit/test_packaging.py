import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))


def pins(lock: str) -> dict[str, tuple[Requirement, int]]:
    """Each pinned requirement of a lock, with the number of its hashes."""
    found = {}
    for entry in re.split(r"\n(?=[a-z])", (ROOT / "requirements" / lock).read_text()):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.split("\\\n")[0].strip())
        found[canonicalize_name(requirement.name)] = (requirement, entry.count("--hash=sha256:"))
    return found


def declared(*names: str) -> list[Requirement]:
    groups = {
        "runtime": PROJECT["project"]["dependencies"],
        "embedded": PROJECT["project"]["optional-dependencies"]["embedded"],
        **PROJECT["dependency-groups"],
    }
    return [Requirement(line) for name in names for line in groups[name] if isinstance(line, str)]


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("runtime.txt", ("runtime",)),
        ("build.txt", ("build",)),
        ("dev.txt", ("runtime", "embedded", "build", "dev")),
        ("mutation.txt", ("mutation",)),
    ],
)
def test_a_lock_pins_all_that_is_declared_within_its_bounds(lock: str, groups: tuple[str, ...]) -> None:
    locked = pins(lock)

    for requirement in declared(*groups):
        pin, _ = locked[canonicalize_name(requirement.name)]
        (version,) = pin.specifier

        assert version.operator == "=="
        assert requirement.specifier.contains(version.version), f"{requirement}, locked {pin}: run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_a_lock_carries_hashes(lock: str) -> None:
    locked = pins(lock)

    assert locked
    assert [str(pin) for pin, hashes in locked.values() if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_of_download(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()

    assert re.findall(r".*(?:://|file:|--(?:extra-)?index-url|--find-links| /\w).*", text) == []


@pytest.mark.parametrize("part", ["runtime.txt", "build.txt"])
def test_development_has_the_versions_that_are_shipped(part: str) -> None:
    shipped, development = pins(part), pins("dev.txt")

    assert {name: str(pin) for name, (pin, _) in shipped.items()} == {
        name: str(pin) for name, (pin, _) in development.items() if name in shipped
    }


def test_the_embedded_servers_are_pinned_exactly() -> None:
    servers = declared("embedded")

    assert [[spec.operator for spec in server.specifier] for server in servers] == [["=="]] * len(servers)
