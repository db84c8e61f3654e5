"""The HTTP service: tokens, health and the status of collectors. ``gunicorn "service:create_app()"`` serves it."""

from __future__ import annotations

from service.app import create_app

__all__ = ["create_app"]
