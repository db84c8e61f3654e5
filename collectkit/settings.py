"""Configuration, read from the environment once, at the edge, into a frozen object; nobody else reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from collectkit.errors import SettingsError

_SECRETS = frozenset({"database_url", "broker_url", "jwt_key"})
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_SHORTEST_LEASE = timedelta(seconds=1)
_GROUPS = tuple(f"{level}_{use}_groups" for level in ("public", "internal", "embargo") for use in ("read", "write"))

T = TypeVar("T", bound=msgspec.Struct)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides; each field is read from ``COLLECTKIT_`` and its name in capitals.

    Attributes:
        database_url: PostgreSQL, as ``postgresql://role:password@host/database``. Unset: the embedded server of
            ``collectkit up`` in ``state_dir``.
        broker_url: Redis or Valkey, as ``redis://host:6379/0`` or ``unix:///path``. Unset: the embedded server.
        state_dir: where embedded servers and generated keys live.
        collectors: the packages below which every ``tasks.py`` is looked for, separated by commas.
        dry_run: roll back every checkpoint of every collector that does not say otherwise.
        lease_ttl: how long a run may go without renewing its lease, in seconds; it is renewed three times as often.
        jwt_key: the key that signs tokens. Unset: made once in ``state_dir``.
        bind: the address of the service, ``host:port``.
        ready_after: how long, in seconds, a collector may be overdue before ``/collectors/ready`` says 503.
        log_format: ``console`` for people, ``json`` for machines.
        acl_namespace: what group names are prefixed with before they become ids; another one makes other groups.
        public_read_groups: who may read what is stored as ``public``; and so on for ``internal`` and ``embargo``.
        public_write_groups: under which groups it is written; no account needs them.
    """

    database_url: str | None = None
    broker_url: str | None = None
    state_dir: Path = Path("var")
    collectors: tuple[str, ...] = ("collectors",)
    dry_run: bool | None = None
    lease_ttl: timedelta = timedelta(seconds=30)
    jwt_key: str | None = None
    bind: str = "127.0.0.1:8000"
    ready_after: timedelta = timedelta(seconds=60)
    log_format: Literal["console", "json"] = "console"
    acl_namespace: str = "urn:collectkit:group:"
    public_read_groups: tuple[str, ...] = ("public",)
    public_write_groups: tuple[str, ...] = ("public-write",)
    internal_read_groups: tuple[str, ...] = ("internal",)
    internal_write_groups: tuple[str, ...] = ("internal-write",)
    embargo_read_groups: tuple[str, ...] = ("embargo",)
    embargo_write_groups: tuple[str, ...] = ("embargo-write",)

    @property
    def all_groups(self) -> frozenset[str]:
        """Every group that the settings name."""
        return frozenset(group for field in _GROUPS for group in getattr(self, field))

    def __repr__(self) -> str:
        """Show every field but the secrets, which read ``***``."""
        return _without_secrets(self)


class CollectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The base of one collector's own settings: derive, add typed fields, and call ``load`` at import.

    Attributes:
        enabled: whether the collector runs at all; pass it to the decorator's ``enabled=``.
    """

    enabled: bool = True

    def __repr__(self) -> str:
        """Show every field but the secrets, which read ``***``."""
        return _without_secrets(self)

    @classmethod
    def load(cls, prefix: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Read each field from ``PREFIX_FIELD``: ``load("KEV_COLLECTOR")`` reads ``KEV_COLLECTOR_URL`` and the like.

        Raises:
            SettingsError: naming every variable that cannot be used.
        """
        settings, faults = _read(cls, prefix, environ)
        if faults:
            raise SettingsError(faults)
        return settings


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the ``COLLECTKIT_*`` variables; an empty one counts as unset.

    Raises:
        SettingsError: naming every variable that cannot be used, without showing a secret's value.
    """
    settings, faults = _read(Settings, "COLLECTKIT", environ)
    faults += [*_url_faults(settings), *_value_faults(settings)]
    if faults:
        raise SettingsError(faults)
    return msgspec.structs.replace(settings, state_dir=settings.state_dir.absolute())


def _read(cls: type[T], prefix: str, environ: Mapping[str, str]) -> tuple[T, list[str]]:
    """Return the settings, with the default where a variable cannot be used, and one line for each of these."""
    faults: list[str] = []
    values: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for field in msgspec.structs.fields(cls):
        variable = f"{prefix}_{field.name.upper()}"
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[field.name] = _parse(text, hints[field.name])
        except (msgspec.ValidationError, ValueError) as error:
            shown = "the value" if _is_secret(field.name) else repr(text)
            faults.append(f"{variable}: {shown} cannot be used: {error}")
    return cls(**values), faults


def _parse(text: str, wanted: Any) -> Any:
    if wanted is Path:
        return Path(text).expanduser()
    if wanted is timedelta:
        return _seconds(text)
    if wanted in (bool, bool | None):
        return _flag(text)
    if get_origin(wanted) is Literal and text not in get_args(wanted):
        message = f"{' or '.join(get_args(wanted))} is wanted"
        raise ValueError(message)
    if wanted == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return msgspec.convert(text, wanted, strict=False)


def _seconds(text: str) -> timedelta:
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        message = "a number of seconds is wanted"
        raise ValueError(message) from None


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        message = "true or false is wanted"
        raise ValueError(message) from None


def _without_secrets(settings: msgspec.Struct) -> str:
    fields = ((name, getattr(settings, name)) for name in settings.__struct_fields__)
    shown = (f"{name}={'***' if _is_secret(name) and value is not None else repr(value)}" for name, value in fields)
    return f"{type(settings).__name__}({', '.join(shown)})"


def _is_secret(field: str) -> bool:
    return field in _SECRETS or field.endswith(("_key", "_token", "_password", "_secret"))


def _url_faults(settings: Settings) -> list[str]:
    wanted = {
        "database_url": ({"postgresql", "postgres"}, "postgresql://"),
        "broker_url": ({"redis", "rediss", "unix"}, "redis://, rediss:// or unix://"),
    }
    faults = []
    for field, (schemes, words) in wanted.items():
        url = getattr(settings, field)
        fault = None if url is None else _url_fault(url, schemes, words)
        if fault is not None:
            faults.append(f"COLLECTKIT_{field.upper()}: the value cannot be used: {fault}")
    return faults


def _url_fault(url: str, schemes: set[str], words: str) -> str | None:
    """Return what is wrong, without a word of the address: what is taken for a host may be half of a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "its brackets do not match"
    if parts.scheme not in schemes:
        return f"it should begin with {words}"
    login, _, hosts = parts.netloc.rpartition("@")
    # libpq cuts at the first @, where everybody else cuts at the last, and says what it cannot read.
    if "postgresql" in schemes and "@" in login:
        return "write an @ of the password as %40"
    if "postgresql" in schemes and _BAD_ESCAPE.search(login):
        return "write a % of the password as %25"
    # PostgreSQL takes several hosts, separated by commas.
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]
    if any(port and not (port.isascii() and port.isdecimal() and int(port) < 65536) for port in ports):
        return "the port is no number"
    return None


def _value_faults(settings: Settings) -> list[str]:
    faults = []
    if settings.lease_ttl < _SHORTEST_LEASE:
        faults.append("COLLECTKIT_LEASE_TTL: a lease lasts at least one second")
    if settings.ready_after <= timedelta(0):
        faults.append("COLLECTKIT_READY_AFTER: the limit is a number of seconds above zero")
    if not settings.collectors:
        faults.append("COLLECTKIT_COLLECTORS: at least one package is wanted")
    groupless = [field for field in _GROUPS if not getattr(settings, field)]
    faults += [f"COLLECTKIT_{field.upper()}: at least one group is wanted" for field in groupless]
    host, _, port = settings.bind.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        faults.append(f"COLLECTKIT_BIND: {settings.bind!r} cannot be used: host:port is wanted")
    if settings.jwt_key is not None and len(settings.jwt_key.encode()) < 32:
        faults.append("COLLECTKIT_JWT_KEY: the key has at least 32 bytes (RFC 7518, section 3.2)")
    return faults
