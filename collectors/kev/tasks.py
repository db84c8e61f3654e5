"""Keeps the table ``kev`` in step with CISA's catalogue of vulnerabilities that are exploited."""

from __future__ import annotations

from datetime import datetime, timedelta

from collectkit import CollectorSettings, Run, collector, cron, fetch
from collectors.kev.models import Kev
from collectors.kev.source import MAX_BYTES, URL, read_catalog


class KevSettings(CollectorSettings, frozen=True, kw_only=True):
    """``KEV_COLLECTOR_URL`` names another place for the catalogue, ``KEV_COLLECTOR_ENABLED=false`` leaves it alone."""

    url: str = URL


settings = KevSettings.load("KEV_COLLECTOR")


@collector(
    periodic=cron("17 * * * *"),
    data_models=[Kev],
    acl="public",
    enabled=settings.enabled,
    fresh_for=timedelta(hours=4),  # three checks may fail before readers are told
    deadline=timedelta(minutes=15),
    cursor_keys=("catalog_version", "date_released"),
)
def kev_collector(run: Run) -> str:
    """Known exploited vulnerabilities: each catalogue replaces the last, what it no longer lists is marked as gone.

    A catalogue that was released before the one that is in comes from a stale cache. It is passed over, and the
    watermark stays: nobody has seen the news, so the data are not fresher than before. Should the publisher really have
    gone back, freshness runs out, and after ``collectkit rewind`` the older one is taken.
    """
    with fetch(run, settings.url, max_bytes=MAX_BYTES) as feed:
        if feed.unchanged:
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        catalog = read_catalog(feed)
        if catalog.date_released > run.started_at + timedelta(days=1):
            raise feed.refused(f"says that it was released on {catalog.date_released:%Y-%m-%d}, which is to come")
        seen = run.meta_attr.get("date_released")
        if seen is not None and catalog.date_released < datetime.fromisoformat(seen):
            run.log.warning("catalogue of %s is older than the one of %s, passed over", catalog.date_released, seen)
            return f"passed over: catalogue {catalog.catalog_version} is older than {run.meta_attr['catalog_version']}"
        cursor = {"catalog_version": catalog.catalog_version, "date_released": catalog.date_released.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr={**cursor, **feed.meta}) as batch:
            counts = batch.replace(Kev, catalog.entries(), max_shrink=0.05)
    return f"catalogue {catalog.catalog_version}: {counts}"
