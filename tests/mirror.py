"""A shipped collector whose source is a local server, and the table that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import ModuleType
from typing import Any

import psycopg
import pytest

from collectkit import Collector, Counts, Outcome, download, group_ids
from collectkit.settings import CollectorSettings
from tests.replay import Answer, Replay


class Mirror:
    """The collector, its source and its table, which is read past collectkit."""

    def __init__(self, collector: Collector, source: Replay, database_url: str) -> None:
        self.collector = collector
        self.source = source
        self._model = collector.declared.data_models[0]
        self._connection = psycopg.connect(database_url, autocommit=True)
        groups = ",".join(map(str, group_ids(["public"])))
        self._connection.execute("SELECT set_config('collectkit.acl', %s, false)", [groups])

    def publish(self, body: bytes, **more: Any) -> None:
        """Answer so from now on."""
        self.source.answer("/feed", Answer(body=body, **{"content_type": "application/octet-stream", **more}))

    def run(self, **options: Any) -> Outcome:
        """Run the collector now."""
        return self.collector.run_now(**options)

    def load(self, body: bytes, **more: Any) -> Counts:
        """Publish, run, and return what that did."""
        self.publish(body, **more)
        outcome = self.run()
        assert outcome.outcome == "OK", outcome
        return outcome.counts

    def query(self, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
        """Read what is committed, with the eyes of the group public."""
        return self._connection.execute(statement, values or None).fetchall()

    @property
    def versions(self) -> dict[Any, str]:
        """The version of each row, by its key: another one after every write."""
        meta: Any = self._model._meta
        return dict(self.query(f'SELECT "{meta.primary_key.column_name}", xmin::text FROM "{meta.table_name}"'))

    @property
    def state(self) -> tuple[datetime | None, dict[str, Any]]:
        """Watermark and meta_attr."""
        [state] = self.query("SELECT updated_until_dt, meta_attr FROM collectkit.collector")
        return state

    @property
    def result(self) -> str | None:
        """What the last run returned."""
        [(result,)] = self.query("SELECT result FROM collectkit.run ORDER BY id DESC LIMIT 1")
        return result

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


@contextmanager
def mirrored(db: Any, monkeypatch: pytest.MonkeyPatch, tasks: ModuleType, collector: Collector) -> Iterator[Mirror]:
    """Point the collector at a server that answers what a test says, and let retries follow at once."""
    db.enrol(collector)
    with Replay() as source:
        kind: type[CollectorSettings] = type(tasks.settings)
        monkeypatch.setattr(tasks, "settings", kind(url=f"{source.base}/feed"))
        monkeypatch.setattr(download, "_sleep", lambda _: None)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        mirror = Mirror(collector, source, db.settings.database_url)
        yield mirror
        mirror.close()
