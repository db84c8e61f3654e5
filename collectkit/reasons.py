"""Why a run ended as it did, in words that the ledger can keep and that tell nothing they should not."""

from __future__ import annotations

import re
import traceback

from psycopg import DataError
from psycopg.errors import ReadOnlySqlTransaction

_LONGEST = 1000
# A server may speak another language, with quotation marks of its own.
_QUOTED = re.compile(r'\W*["«»„“”].*["«»„“”]', re.DOTALL)
_LONGEST_CHAIN = 10


def storable(text: str) -> str:
    """Return the text as PostgreSQL takes it, without NUL and halves of surrogate pairs, cut to 1,000 characters.

    A source's own words get into results and errors; a close that the database refuses would make the run a lost one.
    """
    return text[:_LONGEST].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def without_value(words: str) -> str:
    """Return what PostgreSQL says of a value that it refuses, without the value, which it puts in quotation marks."""
    return _QUOTED.sub("", words)


def one_line(error: BaseException) -> str:
    """Return kind and message of an error, of the message the first line only, without a value that was refused.

    PostgreSQL's further lines quote rows. Neither these nor a value is for everybody who may see a log or a status.
    """
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - an author's error whose message fails is an error all the same
        words = "(its message cannot be shown)"
    # Peewee keeps the driver's error, which is the exact one, as ``orig``.
    exact = getattr(error, "orig", error)
    if isinstance(exact, DataError):
        words = without_value(words)
    is_unfenced = isinstance(exact, ReadOnlySqlTransaction)
    cure = ": write inside `with run.checkpoint(...)`, elsewhere nothing would fence it" if is_unfenced else ""
    return storable(f"{type(error).__name__}: {(words.splitlines() or [''])[0].strip()}{cure}")


def trace(error: BaseException) -> str:
    """Return where an error and those that it came from were raised, each with its one line."""
    parts: list[str] = []
    rest: BaseException | None = error
    while rest is not None and len(parts) < _LONGEST_CHAIN:
        parts.append("".join(traceback.format_tb(rest.__traceback__)) + one_line(rest))
        rest = rest.__cause__ or (None if rest.__suppress_context__ else rest.__context__)
    return "\nwhich came from\n".join(parts)
