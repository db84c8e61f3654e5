"""Inside a worker whose sweep nudges nobody: what falls due is run only if a scheduler tells of it."""

from __future__ import annotations


def reached(point: str, subject: str = "") -> None:
    """Fail where a sweep begins to nudge, its last step: it has renewed and closed before, and the next one follows."""
    if point == "nudge.before":
        from collectkit.errors import CollectkitError

        raise CollectkitError("a nudge of the sweep is withheld by a test")
