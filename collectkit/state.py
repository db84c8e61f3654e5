"""The state directory: private directories, secrets made once, and places for sockets."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from collectkit.errors import EmbeddedServerError

_LONGEST_SOCKET_PATH = 100


def private_directory(path: Path) -> None:
    """Make the directory, which only its owner may enter.

    Raises:
        EmbeddedServerError: it cannot be made, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.geteuid():
            message = (
                f"{path} belongs to another user: remove it, or set COLLECTKIT_STATE_DIR to a directory of your own"
            )
            raise EmbeddedServerError(message)
        path.chmod(0o700)
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: OSError) -> EmbeddedServerError:
    """Return the error that says why something in the state directory cannot be made or written."""
    reason = error.strerror or type(error).__name__
    return EmbeddedServerError(
        f"{path} cannot be used ({reason}): mend that, or set COLLECTKIT_STATE_DIR to another place"
    )


def secret(path: Path) -> str:
    """Return the secret kept in this file, made the first time: 256 random bits, mode 0600, whole or not at all."""
    if not path.exists():
        try:
            make_secret(path)
        except OSError as error:
            raise unusable(path, error) from error
    return path.read_text(encoding="utf-8").strip()


def make_secret(path: Path) -> None:
    """Write 256 random bits into a file of mode 0600, on the disk before it has its name; one that is there stands."""
    handle, unfinished = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(handle)
        # A link, unlike a rename, fails where the file is there already: of two processes one wins, both read the same.
        with suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        Path(unfinished).unlink()


def socket_directory(home: Path) -> Path:
    """Return where a server's socket lies: below its home, or elsewhere if nobody could connect there.

    A socket's path may have about a hundred bytes, and PostgreSQL takes a comma for the end of one.
    """
    path = home / "sockets"
    if len(os.fsencode(path / ".s.PGSQL.5432")) <= _LONGEST_SOCKET_PATH and "," not in str(path):
        return path
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"collectkit-{os.geteuid()}-{digest}"
