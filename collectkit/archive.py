"""The files of a ZIP archive, one after the other, in flat memory; it knows nothing of where the archive came from."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from collectkit.rejection import Rejected, unread

_LARGEST = 16 << 20
# Encrypted files, and methods of compression that it does not know, are RuntimeErrors of zipfile.
_BROKEN = (BadZipFile, EOFError, OSError, RuntimeError, UnicodeDecodeError, zlib.error)


def read_names(archive: Path, suffix: str, max_bytes: int) -> Iterator[str]:
    """Yield the name of each file whose name ends in ``suffix``, as the archive's directory has it; none is unpacked.

    Raises:
        ValueError: as ``read_members``.
    """
    try:
        with ZipFile(archive) as opened:
            yield from (each.filename for each in _members(opened, suffix, max_bytes))
    except _BROKEN as error:
        raise ValueError(f"sent a ZIP archive that is broken: {error}") from None


def read_members(archive: Path, suffix: str, max_bytes: int) -> Iterator[tuple[str, bytes | Rejected]]:
    """Yield name and content of each file whose name ends in ``suffix``, in the order of the archive.

    The sizes are judged as the archive announces them, before anything is unpacked, and no file unpacks to more than it
    announced. One that is too large for the memory comes out rejected.

    Raises:
        ValueError: in words that follow "the source ...": it is no archive, broken, or too large unpacked.
    """
    try:
        with ZipFile(archive) as opened:
            for each in _members(opened, suffix, max_bytes):
                yield each.filename, _too_large(each) or opened.read(each)
    except _BROKEN as error:
        raise ValueError(f"sent a ZIP archive that is broken: {error}") from None


def _members(opened: ZipFile, suffix: str, max_bytes: int) -> list[ZipInfo]:
    members = [each for each in opened.infolist() if each.filename.endswith(suffix)]
    size = sum(each.file_size for each in members)
    if size > max_bytes:
        raise ValueError(f"unpacks to {size:,} bytes, more than the limit of {max_bytes:,}")
    return members


def _too_large(member: ZipInfo) -> Rejected | None:
    return unread(member.filename, member.file_size, _LARGEST) if member.file_size > _LARGEST else None
