"""Keeps the table ``cvelist`` in step with the CVE List, the authoritative record of every CVE."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from collectkit import CollectorSettings, FetchError, Rejected, Run, collector, cron, fetch_git
from collectors.cvelist.models import Cvelist
from collectors.cvelist.source import RECORD, URL, read_records, vanished

File = tuple[str, bytes | Rejected]
TIMEOUT = timedelta(hours=1)
MAX_BYTES = 8 << 30  # of the clone
MAX_SHRINK = 0.02  # records are rejected, not deleted


class CvelistSettings(CollectorSettings, frozen=True, kw_only=True):
    """``CVELIST_COLLECTOR_URL`` names another repository, ``CVELIST_COLLECTOR_ENABLED=false`` leaves it alone."""

    url: str = URL


settings = CvelistSettings.load("CVELIST_COLLECTOR")


@collector(
    periodic=cron("8,38 * * * *"),
    data_models=[Cvelist],
    acl="public",
    enabled=settings.enabled,
    fresh_for=timedelta(hours=2),  # three checks may fail before readers are told
    deadline=TIMEOUT + timedelta(minutes=15),
    cursor_keys=("commit", "committed_at"),
)
def cvelist_collector(run: Run) -> str:
    """CVE records: the commits since the last run are read as one difference; where that one is unknown, every file is.

    A commit that was made before the one that is in comes from a mirror that lags behind. It is passed over, and the
    watermark stays, as long as the older one is shown; after ``collectkit rewind`` it is taken.
    """
    since = run.meta_attr.get("commit")
    with fetch_git(run, settings.url, since=since, timeout=TIMEOUT, max_bytes=MAX_BYTES) as repository:
        if repository.unchanged:
            run.store(updated_until_dt=run.started_at)
            return "unchanged"
        if repository.committed_at > run.started_at + timedelta(days=1):
            raise FetchError(repository.url, f"has a commit of {repository.committed_at:%Y-%m-%d}, which is to come")
        seen = run.meta_attr.get("committed_at")
        if seen is not None and repository.committed_at < datetime.fromisoformat(seen):
            run.log.warning("commit of %s is older than the one of %s, passed over", repository.committed_at, seen)
            return f"passed over: commit {repository.commit:.12} is older than {run.meta_attr['commit']:.12}"
        cursor = {"commit": repository.commit, "committed_at": repository.committed_at.isoformat()}
        with run.checkpoint(updated_until_dt=run.started_at, meta_attr=cursor) as batch:
            records = read_records(_told(run, repository.files(RECORD)))
            if repository.since is None:
                batch.replace(Cvelist, records, max_shrink=MAX_SHRINK)
            else:
                batch.upsert(Cvelist, records)
                batch.remove(Cvelist, vanished(repository), max_shrink=MAX_SHRINK)
        how = "all files" if repository.since is None else f"since {repository.since:.12}"
    return f"commit {repository.commit:.12}, {how}: {run.counts}"


def _told(run: Run, files: Iterator[File]) -> Iterator[File]:
    """Let the files through, and show how many they are so far."""
    for number, file in enumerate(files, 1):
        yield file
        run.progress(number)
