"""Records of a source, decoded one by one: what cannot be read is set aside, and the others are not lost with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from collectkit.rejection import Rejected

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# An even number of backslashes before it: after an odd one it is the text of these six characters.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Any escape; in the group is one for half a surrogate pair whose other half is missing.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)

T = TypeVar("T")


def decode_each(
    records: Iterable[bytes | msgspec.Raw | Rejected],
    type: type[T],  # noqa: A002 - as in msgspec
    *,
    key: str | None = None,
) -> Iterator[T | Rejected]:
    """Decode JSON records into ``type``, each by itself; one that does not fit comes out as a ``Rejected``.

    A document is taken apart first, its list declared as ``tuple[msgspec.Raw, ...]``, and its records are decoded as
    the load asks for them::

        catalog = feed.json(Catalog)
        batch.replace(Entry, decode_each(catalog.entries, EntryRecord, key="id"))

    Rules that types cannot state go into the type's ``__post_init__``, as a ValueError. A record with a NUL character
    is rejected too: PostgreSQL cannot store it.

    Arguments:
        records: JSON, each a whole value; one that is rejected already, as too large to be read, comes out so.
        type: a msgspec Struct.
        key: the field that is the row's key, ``cve_id``, or within other fields, ``cve.id``, as ``type`` names them. It
            is looked for in a record that is otherwise broken, so that ``replace`` knows which row to leave alone.
    """
    return map(_reading(type, key_finder(type, key)), records)


def decode_files(
    files: Iterable[tuple[str, bytes | msgspec.Raw | Rejected]],
    type: type[T],  # noqa: A002 - as in msgspec
    *,
    key: Callable[[str], object],
) -> Iterator[tuple[str, bytes, T | Rejected]]:
    """Decode JSON files as ``decode_each`` does records; each comes out with its name and content.

    Arguments:
        files: name and content, as ``Download.members`` and ``Repository.files`` give them.
        type: a msgspec Struct.
        key: what makes the row's key of a file's name, so that it is known however broken the file is.
    """
    read = _reading(type, lambda _: None)
    for name, content in files:
        row = read(content)
        body = content.record if isinstance(content, Rejected) else bytes(content)
        yield name, body, structs.replace(row, key=key(name)) if isinstance(row, Rejected) else row


def without_halves(document: bytes) -> bytes:
    r"""Return JSON that can be taken apart in spite of escaped halves of surrogate pairs, such as a lone ``\ud800``.

    They stand as the bytes then that they would be, which are no UTF-8: so the record is rejected that holds one, and
    not the document.
    """

    def bare(escape: re.Match[bytes]) -> bytes:
        half = escape[1]
        return chr(int(half, 16)).encode(errors="surrogatepass") if half else escape[0]

    return _ESCAPE.sub(bare, document) if _SURROGATE.search(document) else document


def _reading(
    type: type[T],  # noqa: A002 - as above
    find_key: Callable[[bytes], object],
) -> Callable[[bytes | msgspec.Raw | Rejected], T | Rejected]:
    decoder = msgspec.json.Decoder(type)

    def read(given: bytes | msgspec.Raw | Rejected) -> T | Rejected:
        if isinstance(given, Rejected):
            return given
        record = bytes(given)
        try:
            row = decoder.decode(record)
            if not record.isascii():
                record.decode()  # the decoder does not look at what it passes over, nor at what it leaves as it is
            if b"u0000" in record and _ESCAPED_NUL.search(record):
                raise msgspec.DecodeError("holds a NUL character, which PostgreSQL cannot store")
        except _UNREADABLE as error:
            return Rejected(record, reason_of(error), find_key(record))
        return row

    return read


def key_finder(type: type[Any], path: str | None) -> Callable[[bytes], object]:  # noqa: A002 - as above
    """Return what finds the value at ``path`` in a record, and nothing else; None where it cannot be read.

    Raises:
        TypeError: ``type`` has no such field.
    """
    if path is None:
        return lambda _record: None
    names = path.split(".")
    decoder = msgspec.json.Decoder(_only(type, names))

    def find(record: bytes) -> object:
        try:
            found: object = decoder.decode(without_halves(record))
        except _UNREADABLE:
            return None
        for name in names:
            found = getattr(found, name)
        return found

    return find


def reason_of(error: Exception) -> str:
    """Return why a record cannot be read, in one line."""
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _only(type: Any, names: list[str]) -> type[msgspec.Struct]:  # noqa: A002 - as above
    """Return a Struct with one field of ``type``, or with one field of one field of it."""
    known = {f.name: f for f in msgspec.structs.fields(type)}
    field = known.get(names[0])
    if field is None:
        raise TypeError(f"key={names[0]!r} is no field of {type.__name__} ({', '.join(known)})")
    inner = _only(field.type, names[1:]) if names[1:] else field.type
    return msgspec.defstruct(type.__name__, [(field.name, inner, msgspec.field(name=field.encode_name))])
