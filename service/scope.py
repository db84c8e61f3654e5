"""The access groups of a request: those of its caller, for as long as it takes, and none for anybody else."""

from __future__ import annotations

from typing import Any

import falcon

from collectkit import set_user_acls
from collectkit.acl import scope_of


class CallerScope:
    """The middleware under which every request acts for its caller: behind a ``Gate``, which tells who that is.

    A request begins without any group. So one that needs no token has none, and nothing of an earlier request can be
    in force, even if that could not end as it should.
    """

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Begin without groups."""
        req.context.scope = scope_of([], root=True)
        req.context.scope.open()

    def process_resource(self, req: falcon.Request, _resp: falcon.Response, _resource: Any, _params: Any) -> None:
        """Take the groups of the caller's token."""
        if hasattr(req.context, "caller"):
            set_user_acls(req.context.caller.groups)

    def process_response(self, req: falcon.Request, _resp: falcon.Response, _resource: Any, _succeeded: bool) -> None:  # noqa: FBT001 - falcon's signature
        """End the scope, after an error too."""
        if hasattr(req.context, "scope"):
            req.context.scope.close()
