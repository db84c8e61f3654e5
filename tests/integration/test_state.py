"""The state directory: what cannot be made is said in a line, and sockets lie where a server takes them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from collectkit.errors import AlreadyRunning, EmbeddedServerError
from collectkit.ownership import Ownership
from collectkit.state import private_directory, secret, socket_directory


@pytest.mark.parametrize("path", ["/dev/null/var", "/proc/nothing/var", "/etc/hostname"])
def test_a_directory_that_cannot_be_made_is_said_in_a_line(path):
    with pytest.raises(EmbeddedServerError, match=rf"^{re.escape(path)} cannot be used \(.+\): mend that, or set"):
        private_directory(Path(path))


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    first, second = secret(tmp_path / "word"), secret(tmp_path / "word")

    assert first == second
    assert len(first) > 40
    assert stat.S_IMODE((tmp_path / "word").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["word"]


def test_a_secret_that_cannot_be_written_is_said_in_a_line(tmp_path):
    with pytest.raises(EmbeddedServerError, match=r"cannot be used \(No such file or directory\)"):
        secret(tmp_path / "nowhere" / "word")


@pytest.mark.parametrize("name", ["x" * 120, "ü" * 60, "one, two"])
def test_sockets_lie_elsewhere_where_nobody_could_connect(tmp_path, name):
    found = socket_directory(tmp_path / name / "postgres")

    assert not found.is_relative_to(tmp_path)
    assert found == socket_directory(tmp_path / name / "postgres")


def test_a_full_disk_is_said_before_anything_is_started(tmp_path):
    (tmp_path / "up.json").symlink_to("/dev/full")

    with (
        pytest.raises(EmbeddedServerError, match=r"up.json cannot be used \(No space left on device\)"),
        Ownership(tmp_path),
    ):
        pass


def test_writing_down_the_children_again_needs_no_more_room(tmp_path):
    with Ownership(tmp_path) as ownership:
        size = (tmp_path / "up.json").stat().st_size
        ownership.note([])

        assert (tmp_path / "up.json").stat().st_size == size > 500
        with pytest.raises(AlreadyRunning, match=r"process \d+"), Ownership(tmp_path):
            pass
