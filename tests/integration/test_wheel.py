"""What a user gets: the wheel, built and installed as a user would; this environment lends its libraries alone."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("collectkit", "collectors", "service")


def output(*command: object, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COLLECTKIT_", "PYTEST_", "PYTHON"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    output(*pip, "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", dist, ROOT, cwd=dist)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that holds the wheel and borrows the libraries of this one, not its collectkit."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    output(*pip, "install", "-qq", "--no-deps", "--no-index", wheel, cwd=place)
    site = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    (Path(site) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return place


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    shipped = {
        name for name in zipfile.ZipFile(wheel).namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")
    }

    source = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == source
    assert {"collectkit/py.typed", "collectors/kev/tasks.py", "service/app.py"} <= shipped
    assert any(name.startswith("collectkit/migrations/") for name in shipped)


def test_the_wheel_leaves_the_collectors_namespace_open(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert "collectors/__init__.py" not in names


def test_the_installed_command_answers(environment: Path, tmp_path: Path) -> None:
    by_script = output(environment / "bin" / "collectkit", "--help", cwd=tmp_path)
    by_module = output(environment / "bin" / "python", "-m", "collectkit", "--help", cwd=tmp_path)

    for text in by_script, by_module:
        assert {"up", "worker", "scheduler", "serve", "migrate", "check", "run", "status"} <= set(text.split())


def test_shipped_and_local_collectors_share_the_namespace(environment: Path, tmp_path: Path) -> None:
    local = tmp_path / "collectors" / "local"
    local.mkdir(parents=True)
    (local / "__init__.py").write_text("")

    places = output(
        environment / "bin" / "python",
        "-c",
        "import collectors.kev, collectors.local\nprint(collectors.kev.__file__, collectors.local.__file__, sep='\\n')",
        cwd=tmp_path,
    ).splitlines()

    assert [Path(place).is_relative_to(base) for place, base in zip(places, (environment, tmp_path), strict=True)] == [
        True,
        True,
    ]


def test_the_fixtures_for_users_load_with_pytest(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")

    report = output(
        environment / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "--trace-config", cwd=tmp_path
    )

    assert "collectkit.testing" in report
    assert "1 passed" in report
