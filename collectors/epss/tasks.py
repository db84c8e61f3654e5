"""Keeps the table ``epss`` in step with the daily exploit-prediction scores."""

from __future__ import annotations

from datetime import datetime, timedelta

from collectkit import CollectorSettings, Run, collector, cron, fetch
from collectors.epss.models import Epss
from collectors.epss.source import MAX_BYTES, URL, read_scores, read_version


class EpssSettings(CollectorSettings, frozen=True, kw_only=True):
    """``EPSS_COLLECTOR_URL`` names another file of scores, ``EPSS_COLLECTOR_ENABLED=false`` leaves it alone."""

    url: str = URL


settings = EpssSettings.load("EPSS_COLLECTOR")


@collector(
    periodic=cron("41 * * * *"),  # a file a day, about noon, but it slips; an unchanged one costs next to nothing
    data_models=[Epss],
    acl="public",
    enabled=settings.enabled,
    fresh_for=timedelta(hours=4),  # three checks may fail before readers are told
    deadline=timedelta(minutes=15),
    cursor_keys=("model_version", "score_date"),
)
def epss_collector(run: Run) -> str:
    """Exploit-prediction scores: each file replaces the last, and rows whose score is the same are not written.

    A few scores vanish at any time, and a new model drops thousands: only then may the table shrink by more than 2%.
    A file with an older date than the scores that are in comes from a stale cache. It is passed over, and the watermark
    stays: nobody has seen the news, so the data are not fresher than before.
    """
    with fetch(run, settings.url, accept="text/csv", max_bytes=MAX_BYTES) as feed:
        if feed.unchanged:
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        version = read_version(feed)
        if version.date > run.started_at + timedelta(days=1):
            raise feed.refused(f"has scores of {version.date:%Y-%m-%d}, which is to come")
        seen_model, seen_date = run.meta_attr.get("model_version"), run.meta_attr.get("score_date")
        if seen_date is not None and version.date < datetime.fromisoformat(seen_date):
            run.log.warning("scores of %s are older than those of %s, passed over", version.date, seen_date)
            return f"unchanged: scores of {version.date.isoformat()} are older than those that are in"
        if (version.model, version.date.isoformat()) == (seen_model, seen_date):
            run.store(updated_until_dt=run.started_at, meta_attr=feed.meta)
            return "unchanged"
        cursor = {"model_version": version.model, "score_date": version.date.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr={**cursor, **feed.meta}) as batch:
            shrink = 0.02 if version.model == seen_model else 1
            counts = batch.replace(Epss, read_scores(feed), max_shrink=shrink)
    return f"scores of {version.date:%Y-%m-%d}, model {version.model}: {counts}"
