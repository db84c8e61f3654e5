"""The key that signs tokens: a setting, or a file that is made once for all processes of a state directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from collectkit.errors import CollectkitError
from collectkit.settings import Settings
from collectkit.state import make_secret

FILE = "jwt.key"
# RFC 7518, section 3.2: a key of HS256 has at least as many bits as its hash.
SHORTEST = 32


class KeyRefused(CollectkitError):
    """The key that signs tokens cannot be used, read or made."""


def signing_key(settings: Settings) -> bytes:
    """Return the key: the setting's, or that of the file ``jwt.key`` in the state directory, which is made if missing.

    Processes that start at once agree on one key: only one of them makes the file, and all of them read it.

    Raises:
        KeyRefused: it is too short, its file may be read by others than its owner, or cannot be read or made.
    """
    if settings.jwt_key is not None:
        return _long_enough(settings.jwt_key.encode(), "COLLECTKIT_JWT_KEY")
    path = settings.state_dir / FILE
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_secret(path)
            return _read(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{path}: the key of tokens cannot be read or made ({reason}): mend that, or set COLLECTKIT_JWT_KEY"
        raise KeyRefused(message) from error


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        # Of the open file: between a look at the name and the opening it could be exchanged.
        mode = os.fstat(descriptor).st_mode
        if stat.S_IMODE(mode) & 0o077:
            message = (
                f"{path}: others may read the key of tokens (mode {stat.S_IMODE(mode):04o}): delete it, for it may be"
                " known, and a new one is made; or `chmod 600` it if you are sure"
            )
            raise KeyRefused(message)
        return _long_enough(file.read().strip(), str(path))


def _long_enough(key: bytes, source: str) -> bytes:
    if len(key) < SHORTEST:
        message = f"{source}: the key of tokens has at least {SHORTEST} bytes (RFC 7518, section 3.2), not {len(key)}"
        raise KeyRefused(message)
    return key
