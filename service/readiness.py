"""Is the process alive, and is work being done? Open to all, so no answer tells addresses or causes; the log does."""

from __future__ import annotations

import logging
from datetime import timedelta

import falcon
import msgspec
import redis

from collectkit.errors import CollectkitError, DatabaseUnavailable, NotMigrated
from collectkit.overdue import overdue
from collectkit.settings import Settings
from service.auth import OPEN
from service.problems import Problem

logger = logging.getLogger(__name__)

# redis-py waits for ever by default; a probe that waits tells nobody.
_PATIENCE = 2
_NAMED_AT_MOST = 20


class Failing(msgspec.Struct, frozen=True):
    """One thing that keeps the service from being ready.

    Attributes:
        check: ``database``, ``broker`` or ``collectors``.
        detail: what is wrong, in words.
        collectors: those that are overdue, 20 at most.
    """

    check: str
    detail: str
    collectors: list[str] = []


class HealthyResource:
    """Tells that this process lives; touches no server."""

    needs = OPEN

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200."""
        resp.data = b'{"status":"healthy"}'


class ReadyResource:
    """Tells whether database and broker answer and somebody works: no collector has been overdue for too long.

    Arguments:
        settings: ``ready_after`` is how long a collector may be overdue; ``broker_url`` names the broker.
    """

    needs = OPEN

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker: redis.Redis | None = None

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 with the list of what fails."""
        failing = [fault for fault in (self._database_or_collectors(), self._broker_fault()) if fault is not None]
        if failing:
            names = ", ".join(fault.check for fault in failing)
            raise Problem(503, f"not ready: {names}", headers={"Retry-After": "5"}, failing=failing)
        resp.data = b'{"status":"ready"}'

    def _database_or_collectors(self) -> Failing | None:
        try:
            late = overdue(self._settings.ready_after)
        except NotMigrated:
            return Failing("database", "collectkit's tables are missing: run `collectkit migrate`")
        except DatabaseUnavailable as error:
            logger.warning("not ready: %s", error)
            return Failing("database", "PostgreSQL does not answer")
        if not late:
            return None
        detail = (
            f"{len(late)} could have run for longer than {_in_words(self._settings.ready_after)}: does a worker run?"
        )
        return Failing("collectors", detail, late[:_NAMED_AT_MOST])

    def _broker_fault(self) -> Failing | None:
        try:
            self._client().ping()
        except CollectkitError as error:
            logger.warning("not ready: %s", error)
            return Failing("broker", "COLLECTKIT_BROKER_URL is not set and no embedded server runs")
        except redis.RedisError as error:
            logger.warning("not ready: Redis does not answer: %s", error)
            return Failing("broker", "Redis does not answer")
        return None

    def _client(self) -> redis.Redis:
        """Give the client, made when it is first needed: an embedded server may start after this process."""
        if self._broker is None:
            self._broker = redis.Redis.from_url(
                self._settings.broker_url or self._embedded_url(),
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
                retry=None,
            )
        return self._broker

    def _embedded_url(self) -> str:
        from collectkit.embedded import broker_url

        return broker_url(self._settings.state_dir)


def _in_words(limit: timedelta) -> str:
    return f"{limit.total_seconds():g} s"
