"""The state directory: private directories, secrets made once, and places for sockets."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from collectkit.errors import EmbeddedServerError

_LONGEST_SOCKET_PATH = 100


def private_directory(path: Path) -> None:
    """Make the directory, which only its owner may enter.

    Raises:
        EmbeddedServerError: it belongs to somebody else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        message = f"{path} belongs to another user: remove it, or set COLLECTKIT_STATE_DIR to a directory of your own"
        raise EmbeddedServerError(message)
    path.chmod(0o700)


def secret(path: Path) -> str:
    """Return the secret kept in this file, made the first time: 256 random bits, mode 0600, whole or not at all."""
    if not path.exists():
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32))
        try:
            # A link fails where the file is there already: of two processes one wins and both read the same.
            os.link(unfinished, path)
        except FileExistsError:
            pass
        finally:
            Path(unfinished).unlink()
    return path.read_text(encoding="utf-8").strip()


def socket_directory(home: Path) -> Path:
    """Return where a server's socket lies: below its home, or elsewhere if its path were too long for a socket."""
    if len(str(home / "sockets" / ".s.PGSQL.5432")) <= _LONGEST_SOCKET_PATH:
        return home / "sockets"
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"collectkit-{os.geteuid()}-{digest}"
