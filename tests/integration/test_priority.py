from __future__ import annotations

import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import peewee
import psycopg
import pytest

from collectkit import Counts, acl_scope, group_ids, named_acl, read_status
from collectkit.database import database, ledger_db, writing
from collectkit.load import Batch
from collectors import epss
from collectors.epss.models import Epss
from collectors.epss.tasks import epss_collector
from collectors.kev.models import Kev
from collectors.nvd.models import Nvd
from collectors.priority.tasks import SOURCES, priority_collector
from tests.replay import Answer, Replay

LONG_AGO = datetime(2026, 8, 1, tzinfo=UTC)
SCORES = b"#model_version:v1,score_date:2026-08-08T12:00:00Z\ncve,epss,percentile\nCVE-2026-0002,0.1,0.1\n"


class Sources:
    """The tables that priority is made from, filled as their collectors would, and the one that it fills."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._acl = named_acl("public")
        for source in SOURCES:
            self.complete(source.name, LONG_AGO)

    def complete(self, name: str, until: datetime) -> None:
        found = ledger_db.run(
            "UPDATE collectkit.collector SET data_state = 'COMPLETE', updated_until_dt = %(until)s"
            " WHERE name LIKE %(name)s RETURNING 1",
            {"name": f"%{name}%", "until": until},
        )
        assert found

    def kev(self, *ids: str, gone: bool = False, ransomware: str = "Unknown") -> None:
        text = dict.fromkeys(
            ("vendor_project", "product", "vulnerability_name", "short_description", "required_action", "notes"), "x"
        )
        days = {"date_added": "2026-01-02", "due_date": "2026-02-03", "gone_at": LONG_AGO if gone else None}
        more = {"known_ransomware_campaign_use": ransomware, "cwes": []}
        self._put(Kev, [{"cve_id": cve_id, **text, **days, **more} for cve_id in ids])

    def epss(self, **scores: str) -> None:
        self._put(Epss, [(name.replace("_", "-"), epss, "0.5") for name, epss in scores.items()])

    def nvd(self, *ids: str, status: str = "Analyzed", **scores: str | None) -> None:
        kinds = {f"cvss_{version}_score": scores.get(version) for version in ("v2", "v30", "v31", "v40")}
        times = {"published": LONG_AGO, "last_modified": LONG_AGO}
        rest = {"status": status, "description": "x", "weaknesses": []}
        self._put(Nvd, [{"cve_id": cve_id, **rest, **times, **kinds} for cve_id in ids])

    def _put(self, model: type[peewee.Model], rows: Any) -> None:
        with acl_scope([*self._acl.read, *self._acl.write]), writing("a test", 30_000):
            Batch(database.connection(), "a test", self._acl).upsert(model, rows)

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SELECT set_config('collectkit.acl', %s, true)", [str(group_ids(["public"])[0])])
            return connection.execute(statement).fetchall()

    @property
    def order(self) -> list[str]:
        return [cve_id for (cve_id,) in self.query("SELECT cve_id FROM priority ORDER BY rank")]

    @property
    def versions(self) -> dict[str, str]:
        return dict(self.query("SELECT cve_id, xmin::text FROM priority"))

    def why(self, cve_id: str) -> str:
        return self.query(f"SELECT why FROM priority WHERE cve_id = '{cve_id}'")[0][0]


@pytest.fixture
def sources(db):
    db.enrol(*SOURCES, priority_collector)
    return Sources(db.settings.database_url)


def run() -> Counts:
    outcome = priority_collector.run_now()
    assert (outcome.outcome, outcome.reason) == ("OK", None)
    return outcome.counts


def test_known_exploited_comes_first_then_probability_then_severity(sources):
    sources.kev("CVE-1", "CVE-2", "CVE-3")
    sources.epss(CVE_1="0.00001", CVE_2="0.5", CVE_4="0.9", CVE_5="0.9", CVE_6="0.90001")
    sources.nvd("CVE-1", "CVE-4", v31="9.8")
    sources.nvd("CVE-5", v31="9.9")
    sources.nvd("CVE-6", v31="0.1")

    counts = run()

    assert counts == Counts(inserted=6)
    assert sources.order == ["CVE-2", "CVE-1", "CVE-3", "CVE-6", "CVE-5", "CVE-4"]
    assert sources.query("SELECT array_agg(rank ORDER BY rank) FROM priority") == [([1, 2, 3, 4, 5, 6],)]


def test_the_score_shows_its_parts_in_its_digits(sources):
    sources.kev("CVE-1")
    sources.epss(CVE_1="0.94371", CVE_2="0.5")
    sources.nvd("CVE-1", v31="9.8")
    sources.nvd("CVE-3", v31="10.0")

    run()

    scores = dict(sources.query("SELECT cve_id, score FROM priority"))
    assert scores == {"CVE-1": Decimal("1094.371098"), "CVE-2": Decimal(50), "CVE-3": Decimal("0.0001")}


def test_each_row_says_why(sources):
    sources.kev("CVE-1", ransomware="Known")
    sources.kev("CVE-2")
    sources.epss(CVE_1="0.94371", CVE_3="0.1")
    sources.nvd("CVE-1", v31="9.8", v2="10.0")
    sources.nvd("CVE-3", v40="7.1", v31="9.8")
    sources.nvd("CVE-4", v2="10.0")
    sources.nvd("CVE-5", status="Rejected")

    run()

    assert sources.why("CVE-1") == (
        "known to be exploited (listed 2026-01-02); used for ransomware; probability of exploitation 94.371 %; "
        "severity critical (CVSS 3.1: 9.8)"
    )
    assert [sources.why(f"CVE-{n}") for n in range(2, 6)] == [
        "known to be exploited (listed 2026-01-02); probability of exploitation unknown; severity unknown",
        "probability of exploitation 10 %; severity high (CVSS 4.0: 7.1)",
        "probability of exploitation unknown; severity high (CVSS 2.0: 10.0)",
        "probability of exploitation unknown; severity unknown; rejected as a CVE",
    ]


def test_what_is_unknown_comes_after_what_is_known_to_be_nothing(sources):
    sources.epss(CVE_1="0", CVE_3="0.00000")
    sources.nvd("CVE-2", "CVE-3", v31="0.0")
    sources.nvd("CVE-4")

    run()

    assert sources.order == ["CVE-3", "CVE-1", "CVE-2", "CVE-4"]


def test_every_cve_that_a_list_has_gets_one_row_but_what_kev_has_dropped(sources):
    sources.kev("CVE-1")
    sources.kev("CVE-2", gone=True)
    sources.kev("CVE-3", gone=True)
    sources.epss(CVE_3="0.1", CVE_4="0.1")
    sources.nvd("CVE-1", "CVE-5")

    run()

    assert sorted(sources.order) == ["CVE-1", "CVE-3", "CVE-4", "CVE-5"]
    assert "exploited (" not in sources.why("CVE-3")


def test_the_order_is_that_of_a_plain_computation(sources):
    dice = random.Random(11)
    ids = [f"CVE-2026-{n:04}" for n in range(300)]
    kev = set(dice.sample(ids, 40))
    epss = {i: Decimal(dice.choice(["0.00043", "0.5", f"{dice.random():.5f}"])) for i in dice.sample(ids, 250)}
    nvd = {i: dice.choice([None, Decimal("9.8"), Decimal(dice.randrange(101)) / 10]) for i in dice.sample(ids, 200)}
    sources.kev(*kev)
    sources.epss(**{i.replace("-", "_"): str(p) for i, p in epss.items()})
    for cve_id, score in nvd.items():
        sources.nvd(cve_id, v31=None if score is None else str(score))

    run()

    def place(cve_id: str) -> tuple[Any, ...]:
        p, s = epss.get(cve_id, Decimal(-1)), nvd.get(cve_id)
        return cve_id not in kev, -p, 1 if s is None else -s, cve_id

    assert sources.order == sorted({*kev, *epss, *nvd}, key=place)


def test_only_rows_that_come_out_otherwise_are_written(sources):
    sources.epss(CVE_1="0.9", CVE_2="0.8", CVE_3="0.7", CVE_4="0.6")
    sources.nvd("CVE-1", "CVE-2", "CVE-3", "CVE-4", v31="5.0")
    run()
    before = sources.versions

    assert run() == Counts(unchanged=4)
    sources.epss(CVE_3="0.85")
    assert run() == Counts(updated=2, unchanged=2)

    after = sources.versions
    assert [cve_id for cve_id in sorted(before) if after[cve_id] != before[cve_id]] == ["CVE-2", "CVE-3"]


def test_a_cve_that_no_list_has_any_more_goes(sources):
    sources.kev("CVE-20")
    sources.nvd(*(f"CVE-{n}" for n in range(20)))
    run()

    sources.kev("CVE-20", gone=True)

    assert run() == Counts(updated=20, removed=1)  # the others move up


def test_rows_keep_the_watermarks_that_they_were_made_from(sources):
    later = LONG_AGO + timedelta(days=1)
    sources.epss(CVE_1="0.9", CVE_2="0.8")
    run()

    sources.complete("epss", later)
    sources.epss(CVE_2="0.7")
    run()

    rows = sources.query("SELECT cve_id, kev_until, epss_until, nvd_until FROM priority")
    made_from = {cve_id: marks for cve_id, *marks in rows}
    assert made_from == {"CVE-1": [LONG_AGO] * 3, "CVE-2": [LONG_AGO, later, LONG_AGO]}


def test_the_watermark_is_the_earliest_of_the_sources_and_never_goes_back(sources):
    sources.epss(CVE_1="0.9")
    sources.complete("kev", LONG_AGO + timedelta(days=2))
    sources.complete("nvd", LONG_AGO + timedelta(days=1))

    first = priority_collector.run_now()
    sources.complete("epss", LONG_AGO - timedelta(days=1))  # somebody has rewound it
    second = priority_collector.run_now()

    assert (first.updated_until, second.updated_until) == (LONG_AGO, LONG_AGO)
    assert second.outcome == "OK"


def test_it_waits_until_every_source_is_complete(sources):
    ledger_db.run("UPDATE collectkit.collector SET data_state = 'PARTIAL' WHERE name LIKE '%%nvd%%'")

    outcome = priority_collector.run_now()

    assert outcome.outcome == "NOT_CLAIMED"
    assert "nvd" in outcome.reason


def test_it_becomes_due_when_a_source_has_changed(sources, monkeypatch):
    sources.nvd("CVE-2026-0002", v31="5.0")
    run()
    assert read_status([priority_collector.name])[priority_collector.name].next_due is None

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Replay() as source:
        source.answer("/scores.csv", Answer(body=SCORES, content_type="text/csv"))
        settings = msgspec.structs.replace(epss.tasks.settings, url=f"{source.base}/scores.csv")
        monkeypatch.setattr(epss.tasks, "settings", settings)
        assert epss_collector.run_now().outcome == "OK"

    assert read_status([priority_collector.name])[priority_collector.name].next_due is not None
    assert run() == Counts(updated=1)


def test_where_a_source_is_disabled_it_is_disabled_too():
    asked = "from collectors.priority.tasks import priority_collector as p; print(p.declared.enabled)"
    environ = {**os.environ, "EPSS_COLLECTOR_ENABLED": "false"}

    done = subprocess.run([sys.executable, "-c", asked], env=environ, capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_without_any_row_in_the_sources_nothing_is_believed(sources):
    outcome = priority_collector.run_now()

    assert outcome.outcome == "FAILED"
    assert "no rows at all" in outcome.reason


def test_the_table_has_room_for_ranks_that_move(sources):
    [(options,)] = sources.query("SELECT reloptions FROM pg_class WHERE oid = 'priority'::regclass")
    indexed = sources.query("SELECT indexdef FROM pg_indexes WHERE tablename = 'priority'")

    assert options == ["fillfactor=50"]
    assert not [text for (text,) in indexed if "rank" in text or "score" in text]
