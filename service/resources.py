"""What monitors read: the index of endpoints, the status of collectors and the history of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import getdoc
from typing import Any

import falcon
import msgspec

from collectkit.errors import AmbiguousName, UnknownCollector
from collectkit.history import read_runs
from collectkit.names import resolve
from collectkit.status import known_names, read_status
from service.auth import ANY_TOKEN, READ, Resource
from service.problems import Problem

API = "/collectors/api/v1"

_PAGE = 50
_LONGEST_PAGE = 200
_LARGEST_ID = 2**63 - 1


class Endpoint(msgspec.Struct, frozen=True):
    """One line of the index.

    Attributes:
        needs: the scopes that the caller's token must have; None if no token is asked for.
    """

    path: str
    methods: list[str]
    needs: list[str] | None
    about: str


class IndexResource:
    """Lists the endpoints, and says who the caller is.

    Arguments:
        routes: every resource by its path; read when asked, so it lists itself too.
    """

    needs = ANY_TOKEN

    def __init__(self, routes: Mapping[str, Resource]) -> None:
        self._routes = routes

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the index."""
        caller = req.context.caller
        resp.data = msgspec.json.encode(
            {
                "endpoints": [_endpoint(path, resource) for path, resource in self._routes.items()],
                "caller": {"name": caller.name, "scopes": sorted(caller.scopes), "groups": sorted(caller.groups)},
            }
        )


class StatusResource:
    """Shows how all collectors stand."""

    needs = READ

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the status of every collector that is not retired."""
        resp.data = _statuses(None)


class CollectorStatusResource:
    """Shows how one collector stands, all its instances if it has several."""

    needs = READ

    def on_get(self, _req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with the status; 404 if no collector has that name, 409 if several have."""
        resp.data = _statuses(_resolve(name))


class RunsResource:
    """Shows the history of a collector's runs, newest first, page by page."""

    needs = READ

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with a page of runs and the address of the next page, null on the last."""
        before = whole_number(req, "before", _LARGEST_ID)
        limit = min(whole_number(req, "limit", _LARGEST_ID) or _PAGE, _LONGEST_PAGE)
        # One more than is shown tells whether there is another page.
        runs = read_runs(_resolve(name), before=before, limit=limit + 1)
        is_last, runs = len(runs) <= limit, runs[:limit]
        # The name as the caller wrote it: of a parametrised collector it stands for all instances, as on this page.
        path = f"{API}/collectors/{falcon.uri.encode_value(name)}/runs"
        following = None if is_last else f"{path}?before={runs[-1].id}&limit={limit}"
        resp.data = msgspec.json.encode({"runs": runs, "next": following})


def _statuses(names: list[str] | None) -> bytes:
    return msgspec.json.encode({"collectors": read_status(names)})


def _resolve(name: str) -> list[str]:
    try:
        return resolve(name, known_names())
    except UnknownCollector:
        raise Problem(404, f"no collector is called {name!r}: GET {API}/status lists those there are") from None
    except AmbiguousName as error:
        detail = f"{name!r} fits {len(error.candidates)} collectors: say more of it"
        raise Problem(409, detail, candidates=error.candidates) from None


def whole_number(req: falcon.Request, parameter: str, largest: int) -> int | None:
    """Return the parameter of the request's address as a number, None if it is not there.

    Raises:
        Problem: 400, it is no whole number from 1 to ``largest``.
    """
    text = req.get_param(parameter)
    if text is None:
        return None
    # isdecimal takes the digits of every script; int() takes blanks, signs and underscores as well.
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(largest)) and 0 < int(text) <= largest):
        raise Problem(400, f"?{parameter}= should be a whole number above zero")
    return int(text)


def _endpoint(path: str, resource: Resource) -> Endpoint:
    methods = sorted(name.removeprefix("on_").upper() for name in dir(resource) if name.startswith("on_"))
    needs = None if resource.needs is None else sorted(resource.needs)
    return Endpoint(path, methods, needs, _first_line(resource))


def _first_line(resource: Any) -> str:
    return (getdoc(type(resource)) or "").partition("\n")[0]
