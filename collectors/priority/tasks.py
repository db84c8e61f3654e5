"""Keeps the table ``priority`` in step with ``kev``, ``epss`` and ``nvd``: what to fix first, and why."""

from __future__ import annotations

from datetime import timedelta

from collectkit import CollectorSettings, Run, collector, read_status
from collectors.priority.models import Priority
from collectors.priority.ranking import QUERY

SOURCES = tuple(f"collectors.{name}.tasks.{name}_collector" for name in ("kev", "epss", "nvd"))


class PrioritySettings(CollectorSettings, frozen=True, kw_only=True):
    """``PRIORITY_COLLECTOR_ENABLED=false`` leaves it alone; it has to be where one of its sources is disabled."""


settings = PrioritySettings.load("PRIORITY_COLLECTOR")


@collector(
    after=SOURCES,
    depends_on=SOURCES,
    data_models=[Priority],
    acl="public",
    enabled=settings.enabled,
    deadline=timedelta(minutes=15),
)
def priority_collector(run: Run) -> str:
    """The order in which to fix vulnerabilities, made anew whenever one of its sources has changed.

    The watermark is the earliest of the sources'. They are read before the rows, which can only be newer. Should one of
    them have been rewound meanwhile, the watermark stays.
    """
    statuses = read_status(SOURCES)
    marks = [statuses[name].updated_until for name in SOURCES]
    until = min(mark for mark in marks if mark is not None)
    with run.checkpoint(updated_until_dt=max(until, run.updated_until_dt or until)) as batch:
        return str(batch.replace(Priority, Priority.raw(QUERY, *marks)))
