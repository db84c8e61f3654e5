"""Keeps the table ``priority`` in step with ``kev``, ``epss`` and ``nvd``: what to fix first, and why."""

from __future__ import annotations

from datetime import timedelta

from collectkit import CollectorSettings, Run, collector, read_status
from collectors.epss.tasks import epss_collector
from collectors.kev.tasks import kev_collector
from collectors.nvd.tasks import nvd_collector
from collectors.priority.models import Priority
from collectors.priority.ranking import QUERY

SOURCES = (kev_collector, epss_collector, nvd_collector)


class PrioritySettings(CollectorSettings, frozen=True, kw_only=True):
    """``PRIORITY_COLLECTOR_ENABLED=false`` leaves it alone; where one of its sources is disabled, it is too."""


settings = PrioritySettings.load("PRIORITY_COLLECTOR")


@collector(
    after=SOURCES,
    depends_on=SOURCES,
    data_models=[Priority],
    acl="public",
    enabled=settings.enabled and all(source.declared.enabled for source in SOURCES),
    deadline=timedelta(minutes=15),
)
def priority_collector(run: Run) -> str:
    """The order in which to fix vulnerabilities, made anew whenever one of its sources has changed.

    The watermark is the earliest of the sources'. They are read before the rows, which can only be newer. Should one of
    them have been rewound meanwhile, the watermark stays.
    """
    names = [source.name for source in SOURCES]
    statuses = read_status(names)
    marks = [statuses[name].updated_until for name in names]
    until = min(mark for mark in marks if mark is not None)
    with run.checkpoint(updated_until_dt=max(until, run.updated_until_dt or until)) as batch:
        return str(batch.replace(Priority, Priority.raw(QUERY, *marks)))
