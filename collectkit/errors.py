"""Every error that collectkit raises on purpose, each with its one-line message: who, what, what to do now.

Things that are not errors (not due, blocked, already running) are values, see ``Outcome``; they have no class here.
"""

from __future__ import annotations

from collections.abc import Iterable

from dramatiq.middleware import Interrupt


class CollectkitError(Exception):
    """The root of all errors that a user or an author of collectors may want to catch."""


class FaultsFound(CollectkitError):
    """Several faults of the same inspection, all reported at once, one line each.

    Arguments:
        faults: one finished sentence a fault, in the order in which they were found.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class SettingsError(FaultsFound):
    """The environment holds settings that cannot be used; every one of them is named."""


class DeclarationError(FaultsFound):
    """Collectors are declared in a way that cannot run: a bad option, an unknown dependency, a cycle."""


class ScheduleError(CollectkitError):
    """A cron specification or its time zone cannot be used.

    Arguments:
        spec: the specification as written.
        reason: the field and what is wrong with it.
    """

    def __init__(self, spec: str, reason: str) -> None:
        self.spec = spec
        self.reason = reason
        super().__init__(f"schedule {spec!r}: {reason}")


class NotConnected(CollectkitError):
    """The database was asked for before ``collectkit.connect()`` or ``collectkit.setup()`` was called."""

    def __init__(self) -> None:
        super().__init__("no database yet: call collectkit.connect() once, before the first query")


class DatabaseUnavailable(CollectkitError):
    """PostgreSQL cannot be reached, or does not hold collectkit's tables."""


class NotMigrated(DatabaseUnavailable):
    """PostgreSQL answers, but lacks tables or columns of collectkit's."""

    def __init__(self) -> None:
        super().__init__("the database lacks tables of this version of collectkit: run `collectkit migrate`")


class UnsafeRole(CollectkitError):
    """The database role is one that row security does not hold for, so it gets no connection to collectors' tables.

    Arguments:
        role: its name.
        superuser: whether it is a superuser; else it has BYPASSRLS.
        bootstrap: whether it is the superuser that PostgreSQL was set up with, which cannot be made ordinary.
    """

    def __init__(self, role: str, *, superuser: bool, bootstrap: bool = False) -> None:
        self.role = role
        quoted = role.replace('"', '""')
        cure = (
            "connect as an ordinary one: CREATE ROLE collectkit LOGIN PASSWORD '...' NOSUPERUSER NOBYPASSRLS; "
            "CREATE DATABASE collectkit OWNER collectkit"
            if bootstrap
            else f'ALTER ROLE "{quoted}" NOSUPERUSER NOBYPASSRLS'
        )
        what = "is a superuser" if superuser else "has BYPASSRLS"
        super().__init__(f"role {role!r} {what}, so row security does not hold for it: {cure}")


class UnsafeTables(FaultsFound):
    """Tables with access groups whose row security is missing or has been changed; every one of them is named."""


class ScopeError(CollectkitError):
    """Access groups are put in force in a way that could not hold."""


class BrokerUnavailable(CollectkitError):
    """Redis or Valkey cannot be reached."""


class EmbeddedServerError(CollectkitError):
    """A server that collectkit runs by itself cannot be started or found."""


class AlreadyRunning(CollectkitError):
    """Another ``collectkit up`` owns this state directory.

    Arguments:
        state_dir: the directory.
        pid: the process that holds it, 0 if it did not say.
    """

    def __init__(self, state_dir: object, pid: int) -> None:
        self.state_dir = state_dir
        self.pid = pid
        super().__init__(
            f"collectkit up already runs on {state_dir} (process {pid or 'unknown'}): stop that one, or set "
            "COLLECTKIT_STATE_DIR to another directory"
        )


class UnknownCollector(CollectkitError):
    """No collector goes by that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no collector is called {name!r}: `collectkit list` shows those there are")


class AmbiguousName(CollectkitError):
    """A part of a name fits more than one collector."""

    def __init__(self, name: str, candidates: Iterable[str]) -> None:
        self.name = name
        self.candidates = tuple(candidates)
        super().__init__(
            f"{name!r} fits {len(self.candidates)} collectors, say more of it: {', '.join(self.candidates)}"
        )


class CheckpointRefused(CollectkitError):
    """A checkpoint breaks a rule of the watermark, or its ``meta_attr`` is not JSON; nothing was written.

    Arguments:
        collector: its name.
        reason: the rule, with both times where two are compared.
    """

    def __init__(self, collector: str, reason: str) -> None:
        self.collector = collector
        self.reason = reason
        super().__init__(f"collector {collector!r}: checkpoint refused, nothing was written: {reason}")


class SnapshotRefused(CollectkitError):
    """A snapshot is empty or has shrunk too far to be believed; the old rows stand.

    Arguments:
        table: the table that was to be replaced.
        reason: how many of how many, and which limit.
    """

    def __init__(self, table: str, reason: str) -> None:
        self.table = table
        self.reason = reason
        super().__init__(f"table {table!r}: snapshot refused, the old rows stand: {reason}")


class LoadError(CollectkitError):
    """Rows cannot be loaded: a value that the column does not take, an unknown field, a missing key.

    Arguments:
        table: the table that was to be written.
        reason: the row's number, the column and what is wrong; never the row itself, which may hold secrets.
    """

    def __init__(self, table: str, reason: str) -> None:
        self.table = table
        self.reason = reason
        super().__init__(f"table {table!r}: rows refused, the old rows stand: {reason}")


class TooManyRejected(CollectkitError):
    """More records of a load are rejected than it may lose; the old rows stand.

    Arguments:
        table: the table that was to be written.
        rejected: how many records were rejected.
        records: of how many that were read.
        share: the largest part that may be, the ``max_rejected`` of the load.
        first: why the first of them was.
    """

    def __init__(self, table: str, rejected: int, records: int, share: float, first: str) -> None:
        self.table = table
        self.rejected = rejected
        self.records = records
        self.share = share
        self.first = first
        super().__init__(
            f"table {table!r}: load refused, the old rows stand: {rejected:,} of {records:,} records rejected, "
            f"more than max_rejected={share:g} allows, the first for: {first}; look at the source, and if it has a new "
            "form, teach the collector to read it"
        )


class FetchError(CollectkitError):
    """A source did not give what it should; the old rows stand.

    Arguments:
        url: the address, already without what may be secret in it.
        reason: what came instead.
        status: the HTTP status of the last answer, if it was the status that was wrong.
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        self.url = url
        self.reason = reason
        self.status = status
        super().__init__(f"{url}: {reason}; the old rows stand and the run is tried again")


class TooLarge(FetchError):
    """A source sends more than the limit: of a file that is one record among many, the others can be taken."""


class LeaseLost(Interrupt):
    """The run no longer holds its collector: its transaction is rolled back and it may commit nothing more.

    It derives from dramatiq's ``Interrupt``, not from ``Exception``, so that an author's ``except Exception`` does not
    keep a run alive whose place has been taken.
    """


class DeadlineExceeded(Interrupt):
    """The run passed its deadline and was interrupted. Like ``LeaseLost`` it is not an ``Exception``."""
