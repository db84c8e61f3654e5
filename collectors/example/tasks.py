"""The smallest collector there is."""

from __future__ import annotations

from collectkit import CollectorSettings, Run, collector, cron

settings = CollectorSettings.load("EXAMPLE_COLLECTOR")


@collector(periodic=cron("* * * * *"), enabled=settings.enabled)
def example_collector(run: Run) -> str:
    """Each minute it notes that it has looked; copy it to begin one of your own."""
    run.store(updated_until_dt=run.started_at)
    return f"looked at {run.started_at:%H:%M:%S} UTC"
