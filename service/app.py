"""Composition of the service: the one place where it reads the environment, and what answers at which address."""

from __future__ import annotations

import logging
from typing import Any

import falcon

from collectkit import logs
from collectkit.database import connect, ledger_db
from collectkit.errors import DatabaseUnavailable
from collectkit.guard import refuse_unsafe
from collectkit.settings import Settings, load_settings
from service import problems
from service.auth import Gate, RefreshResource, Resource, TokenResource, VerifyResource
from service.data import DataResource
from service.keys import signing_key
from service.readiness import HealthyResource, ReadyResource
from service.resources import API, CollectorStatusResource, IndexResource, RunsResource, StatusResource
from service.scope import CallerScope
from service.tokens import Tokens

logger = logging.getLogger(__name__)


class Headers:
    """The middleware that keeps answers out of caches, and keeps browsers from guessing what they are."""

    def process_response(self, _req: falcon.Request, resp: falcon.Response, _resource: Any, _succeeded: bool) -> None:  # noqa: FBT001 - falcon's signature
        """Set the headers, on errors too."""
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")


def create_app(settings: Settings | None = None) -> falcon.App[falcon.Request, falcon.Response]:
    """Return the service as a WSGI application; it asks the database for its role, and touches no collector at all.

    A database that does not answer yet is no hindrance: an unsafe role gets no connection to collectors' tables anyway.
    Connections are opened a thread, so processes and threads are the server's choice.

    Arguments:
        settings: read from the environment if not given, and then logging is set up by them too.

    Raises:
        SettingsError: a setting cannot be used.
        EmbeddedServerError: no database URL is set and no embedded server runs.
        UnsafeRole: row security does not hold for the role of the database's URL.
        KeyRefused: the key that signs tokens cannot be used, read or made.
    """
    if settings is None:
        settings = load_settings()
        logs.configure(settings.log_format)
    connect(settings)
    _refuse_unsafe_role()
    tokens = Tokens(signing_key(settings))
    middleware: Any = [Gate(tokens), CallerScope(), Headers()]  # falcon's type knows no mixed list
    app = falcon.App(middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = True
    problems.install(app)
    for path, resource in _routes(settings, tokens).items():
        app.add_route(path, resource)
    return app


def _refuse_unsafe_role() -> None:
    try:
        refuse_unsafe(())
    except DatabaseUnavailable as error:
        logger.warning("the database role was not looked at yet: %s", error)
    finally:
        # A server may load the application before it forks: a connection must not be shared by processes.
        ledger_db.let_go()


def _routes(settings: Settings, tokens: Tokens) -> dict[str, Resource]:
    routes: dict[str, Resource] = {
        "/auth/token": TokenResource(tokens),
        "/auth/token/refresh": RefreshResource(tokens),
        "/auth/token/verify": VerifyResource(tokens),
        "/collectors/healthy": HealthyResource(),
        "/collectors/ready": ReadyResource(settings),
        f"{API}/status": StatusResource(),
        f"{API}/status/{{name}}": CollectorStatusResource(),
        f"{API}/collectors/{{name}}/runs": RunsResource(),
        f"{API}/data/{{table}}": DataResource(),
    }
    routes["/collectors"] = IndexResource(routes)
    return routes
