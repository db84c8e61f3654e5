"""Errors over HTTP: always ``application/problem+json`` (RFC 9457), never a trace, nothing about the servers behind."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, NoReturn

import falcon
import msgspec
import peewee
from psycopg import errors as postgres

from collectkit.errors import DatabaseUnavailable, NotMigrated, UnsafeRole

logger = logging.getLogger(__name__)

_RETRY_AFTER = {"Retry-After": "5"}
_NOT_SET_UP = "the database is not set up yet: try again when `collectkit migrate` has run"
_NOT_MIGRATED = (postgres.UndefinedTable, postgres.UndefinedColumn, postgres.InvalidSchemaName)


class Problem(falcon.HTTPError):
    """An error as its reader sees it.

    Arguments:
        status: the HTTP status.
        detail: one sentence: what is wrong, and what to do.
        headers: of the response.
        members: further members of the document, in the sense of RFC 9457, section 3.2.
    """

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(status, description=detail, headers=headers)
        self.members = members


class Unauthorized(Problem):
    """The caller has not shown who it is; every 401 names the scheme that would (RFC 6750, section 3).

    Arguments:
        detail: what is wrong.
        error: RFC 6750's word for it; none for a caller that showed no token at all.
    """

    def __init__(self, detail: str, error: str | None = None) -> None:
        challenge = 'Bearer realm="collectkit"' + (f', error="{error}"' if error else "")
        super().__init__(401, detail, headers={"WWW-Authenticate": challenge})


def install(app: falcon.App[Any, Any]) -> None:
    """Have the application answer every error as a problem."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(DatabaseUnavailable, _database_unavailable)
    app.add_error_handler(UnsafeRole, _unsafe_role)
    app.add_error_handler(peewee.DatabaseError, _database_error)
    app.add_error_handler(Exception, _unexpected)


def _serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    title = HTTPStatus(error.status_code).phrase
    document = {
        "type": "about:blank",
        "title": title,
        "status": error.status_code,
        "detail": error.description or _detail(req, error),
    }
    resp.data = msgspec.json.encode(document | getattr(error, "members", {}))
    resp.content_type = "application/problem+json"


def _detail(req: falcon.Request, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPRouteNotFound):
        return "nothing is at this address: GET /collectors lists what there is"
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = dict(error.headers or {}).get("Allow", "")
        return f"{req.method} is not for this address: it takes {allowed}"
    return "the request cannot be served"


def _database_unavailable(req: falcon.Request, _resp: falcon.Response, error: Exception, _params: Any) -> NoReturn:
    logger.warning("%s %s: %s", req.method, req.path, error)
    message = "the database does not answer: try again in a few seconds"
    raise Problem(503, _NOT_SET_UP if isinstance(error, NotMigrated) else message, headers=_RETRY_AFTER) from error


def _unsafe_role(req: falcon.Request, _resp: falcon.Response, error: Exception, _params: Any) -> NoReturn:
    logger.error("%s %s: %s", req.method, req.path, error)
    raise Problem(503, "the service may not read tables with access groups: its log says what mends that") from error


def _database_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> NoReturn:
    # Peewee keeps the driver's error, which is the exact one, as ``orig``.
    if isinstance(getattr(error, "orig", None), _NOT_MIGRATED):
        logger.warning("%s %s: the database lacks our tables: run `collectkit migrate`", req.method, req.path)
        raise Problem(503, _NOT_SET_UP, headers=_RETRY_AFTER) from error
    _unexpected(req, resp, error, params)


def _unexpected(req: falcon.Request, _resp: falcon.Response, error: Exception, _params: Any) -> NoReturn:
    logger.error("%s %s failed", req.method, req.path, exc_info=error)
    raise Problem(500, "something went wrong on our side; the service's log says what") from error
