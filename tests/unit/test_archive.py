from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from collectkit.archive import read_members
from collectkit.rejection import Rejected

LIMIT = 1 << 20


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "all.zip"


def write(archive: Path, files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        for name, content in files.items():
            into.writestr(name, content)
    archive.write_bytes(packed.getvalue())
    return packed.getvalue()


def read(archive: Path, max_bytes: int = LIMIT) -> list[bytes | Rejected]:
    return [body for _, body in read_members(archive, ".json", max_bytes)]


def test_the_files_of_the_suffix_come_in_their_order_from_any_folder(archive):
    write(archive, {"b.json": b"1", "deep/a.json": b"2", "README.md": b"3", "c.json/": b""})

    assert read(archive) == [b"1", b"2"]


def test_files_are_read_only_when_they_are_asked_for(archive):
    body = write(archive, {"a.json": b"1", "b.json": b"x" * 1000})
    at = body.index(b"b.json") + len("b.json") + 2
    archive.write_bytes(body[:at] + b"\xff\xff" + body[at + 2 :])

    coming = read_members(archive, ".json", LIMIT)

    assert next(coming) == ("a.json", b"1")
    with pytest.raises(ValueError, match="sent a ZIP archive that is broken"):
        next(coming)


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_a_truncated_archive_is_refused(archive, kept):
    body = write(archive, {"a.json": b"1" * 1000})
    archive.write_bytes(body[:kept])

    with pytest.raises(ValueError, match="sent a ZIP archive that is broken"):
        read(archive)


def test_a_bomb_is_refused_before_it_unpacks(archive):
    write(archive, {f"{n}.json": bytes(LIMIT // 4) for n in range(5)})
    assert archive.stat().st_size < LIMIT / 100

    with pytest.raises(ValueError, match="unpacks to 1,310,720 bytes, more than the limit of 1,048,576"):
        read(archive)


def test_a_file_that_is_too_large_for_the_memory_is_rejected_and_the_others_come(archive):
    write(archive, {"a.json": bytes((16 << 20) + 1), "b.json": b"1"})

    rejected = Rejected(b"a.json", "has 16,777,217 bytes, more than the limit of 16,777,216")
    assert read(archive, 1 << 30) == [rejected, b"1"]


def test_a_file_that_announces_less_than_it_holds_is_refused(archive):
    body = write(archive, {"a.json": b"x" * 70_000})
    archive.write_bytes(body.replace((70_000).to_bytes(4, "little"), (7).to_bytes(4, "little")))

    with pytest.raises(ValueError, match="sent a ZIP archive that is broken"):
        read(archive)
