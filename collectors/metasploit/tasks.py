"""Keeps the table ``metasploit`` in step with the modules of the Metasploit Framework."""

from __future__ import annotations

from datetime import timedelta

from collectkit import CollectorSettings, Run, collector, cron, fetch
from collectors.metasploit.models import Metasploit
from collectors.metasploit.source import URL, read_modules


class MetasploitSettings(CollectorSettings, frozen=True, kw_only=True):
    """``METASPLOIT_COLLECTOR_URL`` names another file, ``METASPLOIT_COLLECTOR_ENABLED=false`` leaves it alone."""

    url: str = URL


settings = MetasploitSettings.load("METASPLOIT_COLLECTOR")


@collector(
    periodic=cron("9 */6 * * *"),  # made anew after each merge
    data_models=[Metasploit],
    acl="public",
    enabled=settings.enabled,
    deadline=timedelta(minutes=15),
)
def metasploit_collector(run: Run) -> str:
    """Metasploit's modules: each file replaces the last, what it no longer lists is marked as gone."""
    with fetch(run, settings.url) as feed:
        if feed.unchanged:
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr=feed.meta) as batch:
            counts = batch.replace(Metasploit, read_modules(feed))
    return str(counts)
