"""What the documentation says holds: its code runs, its links lead somewhere, and nothing is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from collectkit.actor import Collector
from collectkit.broker import broker
from collectkit.counts import Counts
from collectkit.database import ledger_db
from collectkit.status import read_status
from collectors.kev.tasks import kev_collector
from tests.replay import Answer, Replay
from tests.upstream import Upstream

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = re.compile(r"<!-- runnable: (\S+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# No server listens on the discard port: what needs a broker fails.
NO_BROKER = "redis://127.0.0.1:9/0"


def blocks(page: str) -> dict[str, str]:
    """The page's blocks that are marked as runnable, by the file that each is."""
    found = dict(RUNNABLE.findall((ROOT / page).read_text("utf-8")))
    assert found, f"{page} has no runnable block"
    return found


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def hosts(*pairs: tuple[str, str]) -> Answer:
    return Answer(body=json.dumps([{"name": name, "address": address} for name, address in pairs]).encode())


@pytest.fixture
def python(db, tmp_path):
    """Runs Python in a directory of its own, on the test's database and without a broker."""

    def run(*arguments, code=0, **more):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COLLECTKIT_", "KEV_"))}
        environ = inherited | {
            "COLLECTKIT_DATABASE_URL": db.settings.database_url,
            "COLLECTKIT_BROKER_URL": NO_BROKER,
            "COLLECTKIT_STATE_DIR": str(tmp_path / "var"),
            "PYTHONPATH": str(ROOT),
            "no_proxy": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environ | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_collector_of_the_readme_runs(db):
    (page,) = [block for block in python_blocks("README.md") if "@collector" in block]
    before = set(broker.actors)
    exec(page, {"__name__": "docs.readme"})
    (name,) = set(broker.actors) - before
    declared = broker.actors[name]
    assert isinstance(declared, Collector)
    db.enrol(declared)

    first, second = declared.run_now(), declared.run_now()

    assert first.counts.inserted == 2
    assert (second.outcome, second.counts.changed) == ("OK", False)


def test_the_service_of_the_readme_answers_without_a_broker(db, python):
    db.enrol(kev_collector)
    (service,) = [block for block in python_blocks("README.md") if "freshness" in block]
    ask = "\nprint(*app({}, lambda status, _: print(status)))"

    assert len([line for line in service.splitlines() if line]) == 6
    assert python("-c", service + ask).splitlines() == [
        "503 Stale",
        r"b'complete until None: due, waiting for a worker\n'",
    ]

    ledger_db.run(
        "UPDATE collectkit.collector SET data_state = 'COMPLETE', updated_until_dt = now(), stale_at = 'infinity'"
    )
    assert python("-c", service + ask).startswith("200 OK")


def test_the_first_load_of_the_howto_goes_on_where_it_was_interrupted(db, monkeypatch):
    def page(start, total=5):
        parts = [{"number": n, "name": f"part {n}"} for n in range(start, min(start + 2, total))]
        return Answer(body=json.dumps({"total": total, "time": "2026-01-01T00:00:00Z", "parts": parts}).encode())

    (code,) = blocks("docs/howto/resumable-first-load.md").values()
    before = set(broker.actors)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Replay() as source:
        monkeypatch.setenv("PARTS_COLLECTOR_URL", source.answer("/api", page(0), page(2), Answer(status=403), page(4)))
        exec(compile(code, "tasks.py", "exec", dont_inherit=True), {"__name__": "docs.resumable"})
        (name,) = set(broker.actors) - before
        declared = broker.actors[name]
        assert isinstance(declared, Collector)
        db.enrol(declared)

        first = declared.run_now()
        half = read_status()[name]
        second = declared.run_now()

        asked = [request.target for request in source.requests]
    assert (first.outcome, half.data, half.cursor["place"]["start"]) == ("FAILED", "PARTIAL", 4)
    assert (second.outcome, second.counts.inserted, read_status()[name].cursor) == ("OK", 1, {})
    assert asked == ["/api?from=0", "/api?from=2", "/api?from=4", "/api?from=4"]


def test_the_git_repository_of_the_howto_is_followed(db, monkeypatch, tmp_path):
    def notes(**texts):
        return {f"notes/{name}.json": json.dumps({"id": name, "text": text}).encode() for name, text in texts.items()}

    (code,) = blocks("docs/howto/git-source.md").values()
    before = set(broker.actors)
    upstream = Upstream(tmp_path / "notes")
    upstream.publish(notes(**{f"old{n}": "text" for n in range(20)}, a="one", b="two") | {"README.md": b"#"})
    monkeypatch.setenv("NOTES_COLLECTOR_URL", upstream.url)
    exec(compile(code, "tasks.py", "exec", dont_inherit=True), {"__name__": "docs.git_source"})
    (name,) = set(broker.actors) - before
    declared = broker.actors[name]
    assert isinstance(declared, Collector)
    db.enrol(declared)

    first, second = declared.run_now(), declared.run_now()
    upstream.publish(notes(**{f"old{n}": "text" for n in range(20)}, b="three", c="four"))
    third = declared.run_now()

    assert (first.reason, second.reason, third.reason) == (None, None, None)
    assert (first.counts, second.counts) == (Counts(inserted=22), Counts())
    assert third.counts == Counts(inserted=1, updated=1, removed=1)


def test_the_tutorial_holds_step_by_step(python, db, tmp_path):
    def run(*options, code=0):
        return json.loads(python("-m", "collectkit", "run", "hosts", "--json", *options, code=code, **environ))

    python("-m", "collectkit", "new", "hosts")
    write(tmp_path, blocks("docs/tutorial.md"))
    with Replay() as source:
        source.answer("/hosts.json", hosts(("ns1", "192.0.2.1"), ("www", "192.0.2.2"), ("mail", "192.0.2.3")))
        environ = {"HOSTS_COLLECTOR_URL": f"{source.base}/hosts.json"}
        python("-m", "collectkit", "migrate", **environ)

        first, second = run(), run()
        source.answer("/hosts.json", hosts(("ns1", "192.0.2.1"), ("www", "192.0.2.9")))
        dry, third = run("--dry-run"), run()
        source.answer("/hosts.json", hosts())
        broken = run(code=1)
        asked = python("ask.py", **environ)
        source.answer("/hosts.json", hosts(("ns1", "192.0.2.1")))
        tested = python(
            *("-m", "pytest", "-p", "no:cacheprovider", "collectors/hosts"),
            COLLECTKIT_TEST_DATABASE_URL=db.settings.database_url,
            **environ,
        )

    assert first["counts"]["inserted"] == 3
    assert sum(second["counts"].values()) == 0
    for each in (dry, third):
        assert [each["counts"][kind] for kind in ("updated", "unchanged", "removed")] == [1, 1, 1]
    assert "snapshot refused" in broken["reason"]
    assert asked == "True\n['ns1', 'www']\n"
    assert "1 passed" in tested


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    targets = [target for target in LINK.findall(FENCED.sub("", page.read_text("utf-8"))) if "://" not in target]

    missing = [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]

    assert missing == []


def test_every_page_of_the_docs_can_be_reached_from_their_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text("utf-8"))}

    assert linked >= {page for page in (ROOT / "docs").rglob("*.md") if page != index}


def test_every_moment_that_the_docs_rewind_to_is_one():
    pages = [page.read_text("utf-8") for page in PAGES]
    moments = [moment for page in pages for moment in re.findall(r"rewind \w+\s+--to\s+(\d[^`\s]*)", page)]

    assert len(moments) >= 3
    assert [moment for moment in moments if datetime.fromisoformat(moment).tzinfo is None] == []


def test_every_word_of_the_glossary_is_explained_once():
    words = re.findall(r"^- \*\*(.+?)\*\*:", (ROOT / "docs/glossary.md").read_text("utf-8"), re.MULTILINE)

    assert len(words) == len(set(words))
    assert {"claim", "close", "fence", "lease", "nudge", "sweep", "tick", "watermark"} <= set(words)


def test_the_statements_of_the_howto_for_deployment_do_what_they_say(db):
    page = (ROOT / "docs/howto/deploy.md").read_text("utf-8").partition("## Looking after it")[2]
    db.enrol(kev_collector)
    ledger_db.run(
        "INSERT INTO collectkit.run (collector, fence, attempt, trigger, started_at, outcome, finished_at)"
        " SELECT name, n, 1, 'due', now(), CASE n WHEN 1 THEN 'RUNNING' ELSE 'OK' END,"
        " CASE WHEN n > 1 THEN now() - n * interval '60 days' END FROM collectkit.collector, generate_series(1, 3) n"
    )
    ledger_db.run(
        "INSERT INTO collectkit.rejected"
        " SELECT 'kev', n, 'why', now() - n * interval '60 days' FROM generate_series(1, 3) n"
    )
    ledger_db.run("INSERT INTO collectkit.account (name, password) VALUES ('ann', ''), ('bob', '')")

    statements = re.search(r"```sql\n(.*?)```", page, re.DOTALL)
    assert statements
    for statement in statements[1].strip().split(";\n"):
        ledger_db.run(statement)

    assert ledger_db.read("SELECT fence FROM collectkit.run ORDER BY 1") == [(1,)]
    assert ledger_db.read("SELECT digest FROM collectkit.rejected") == [("1",)]
    assert ledger_db.read("SELECT name FROM collectkit.account") == [("bob",)]
