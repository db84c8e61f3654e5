"""Keeps the table ``metasploit`` in step with the modules of the Metasploit Framework."""

from __future__ import annotations

from datetime import datetime, timedelta

from collectkit import CollectorSettings, Run, collector, cron, fetch
from collectors.metasploit.models import Metasploit
from collectors.metasploit.source import MAX_BYTES, URL, newest, read_modules, read_rows


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
    cursor_keys=("newest",),
)
def metasploit_collector(run: Run) -> str:
    """Metasploit's modules: each file replaces the last, what it no longer lists is marked as gone.

    It does not say how old it is; its newest module does. A file whose newest module is older than the one of the file
    that is in is an old copy, from a cache, and is refused.
    """
    with fetch(run, settings.url, max_bytes=MAX_BYTES) as feed:
        if feed.unchanged:
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        modules = read_modules(feed)
        seen, found = run.meta_attr.get("newest"), newest(modules, run.started_at)
        cursor = {"newest": found and found.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr={**cursor, **feed.meta}) as batch:
            counts = batch.replace(Metasploit, read_rows(modules))
            if seen is not None and found is not None and found < datetime.fromisoformat(seen):
                raise feed.refused(f"ends on {found:%Y-%m-%d}, before the file that is in ({seen:.10}): an old copy")
    return str(counts)
