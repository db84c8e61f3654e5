"""The command line as people and scripts use it: exit codes, one JSON document, no trace for a user's mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collectkit.database import ledger_db

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cli(db, tmp_path):
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COLLECTKIT_")},
        "COLLECTKIT_DATABASE_URL": db.settings.database_url,
        "COLLECTKIT_STATE_DIR": str(tmp_path / "var"),
        "KEV_COLLECTOR_URL": "http://127.0.0.1:9/nothing-listens-here",
        "PYTHONPATH": str(ROOT),
    }

    def run(*arguments, stdin="", **more):
        done = subprocess.run(
            [sys.executable, "-m", "collectkit", *arguments],
            env=environ | more,
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


def test_a_module_that_cannot_be_imported_is_named_and_holds_no_other_up(cli, tmp_path):
    (tmp_path / "collectors" / "broken").mkdir(parents=True)
    (tmp_path / "collectors" / "broken" / "tasks.py").write_text("this is no Python")

    migrated = cli("migrate")

    assert migrated.returncode == 0
    assert "collectors.broken.tasks: SyntaxError" in migrated.stderr
    assert cli("run", "example").returncode == 0
    assert cli("check").returncode == 1


@pytest.mark.parametrize("command", [("status", "late"), ("run", "late", "--nudge")])
def test_a_collector_that_came_after_the_migration_is_not_denied(cli, command):
    cli("migrate")
    cli("new", "late")

    done = cli(*command)

    assert done.returncode == 1
    assert "'collectors.late.tasks.late_collector': it has no row yet: run `collectkit migrate`" in done.stderr


def test_a_run_by_hand_says_ok_in_one_json_document(cli):
    cli("migrate")

    done = cli("run", "example", "--json")

    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert set(document) == {"name", "outcome", "reason", "counts", "updated_until"}
    assert (document["outcome"], document["reason"]) == ("OK", None)


def test_a_failed_run_exits_with_1_and_a_reason_in_one_line(cli):
    cli("migrate")

    done = cli("run", "kev", "--json", KEV_COLLECTOR_URL="ftp://feeds.example/kev.json")

    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["outcome"] == "FAILED"
    assert "\n" not in document["reason"]


def test_what_cannot_be_claimed_exits_with_3_and_says_why(cli):
    cli("migrate", KEV_COLLECTOR_ENABLED="false")

    by_hand = cli("run", "kev", "--json", KEV_COLLECTOR_ENABLED="false")
    by_a_worker = cli("run", "kev", "--nudge", "--json", KEV_COLLECTOR_ENABLED="false")

    assert (by_hand.returncode, by_a_worker.returncode) == (3, 3)
    reason = "disabled by its declaration: enable it there or in its settings, then run `collectkit migrate`"
    assert json.loads(by_hand.stdout)["reason"] == reason
    name = "collectors.kev.tasks.kev_collector"
    assert json.loads(by_a_worker.stdout) == {"name": name, "requested": False, "reason": reason}
    assert ledger_db.run("SELECT action FROM collectkit.audit") == []


def test_before_migrate_a_command_says_what_to_do(cli):
    assert cli("run", "example").returncode == 3
    assert "collectkit migrate" in cli("run", "example").stdout


@pytest.mark.parametrize(
    "command",
    [("status",), ("run", "example"), ("run", "example", "--nudge"), ("user", "add", "ann", "--password-stdin")],
)
def test_on_a_database_without_our_tables_every_command_says_what_to_do(cli, command):
    ledger_db.run("DROP SCHEMA collectkit CASCADE")

    done = cli(*command, stdin="correct horse\n")

    assert done.returncode == 1
    assert done.stderr.endswith("run `collectkit migrate`\n")


def test_a_dry_run_leaves_the_state_alone(cli):
    cli("migrate")

    assert cli("run", "example", "--dry-run", "--json").returncode == 0

    status = json.loads(cli("status", "example", "--json").stdout)["collectors"]
    assert status["collectors.example.tasks.example_collector"]["data"] == "EMPTY"


def test_asking_for_a_run_needs_no_broker(cli):
    cli("migrate")

    done = cli("run", "example", "--nudge", "--json", COLLECTKIT_BROKER_URL="redis://127.0.0.1:9/0")

    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "collectors.example.tasks.example_collector"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nobody"), 1, "no collector is called 'nobody'"),
        (("run", "collector"), 1, " collectors, say more of it: "),
        (("run",), 2, "Missing argument"),
        (("status", "nobody"), 1, "no collector is called 'nobody'"),
        (("new", "No-Name"), 1, "cannot be a package's name"),
    ],
)
def test_a_users_mistake_is_said_in_a_line(cli, arguments, code, words):
    cli("migrate")

    done = cli(*arguments)

    assert done.returncode == code
    assert words in done.stderr


def test_all_faults_of_the_settings_are_named_at_once_and_no_secret_is_shown(cli):
    done = cli(
        "status", COLLECTKIT_LEASE_TTL="soon", COLLECTKIT_DRY_RUN="perhaps", COLLECTKIT_JWT_KEY="a-secret-too-short"
    )

    assert done.returncode == 1
    assert "COLLECTKIT_LEASE_TTL" in done.stderr
    assert "COLLECTKIT_DRY_RUN" in done.stderr
    assert "a-secret" not in done.stderr


def test_a_dead_database_is_said_in_a_line(cli):
    done = cli("status", COLLECTKIT_DATABASE_URL="postgresql://role:hidden-word@127.0.0.1:9/db")

    assert done.returncode == 1
    assert "PostgreSQL did not answer" in done.stderr
    assert "hidden-word" not in done.stderr


def test_the_list_needs_no_server(cli):
    rows = json.loads(cli("list", "--json", COLLECTKIT_DATABASE_URL="").stdout)

    assert "collectors.kev.tasks.kev_collector" in {row["name"] for row in rows}


def test_an_account_is_added_once(cli):
    cli("migrate")
    arguments = ("user", "add", "ann", "--groups", "", "--scopes", "read,operate", "--password-stdin", "--json")

    assert json.loads(cli(*arguments, stdin="correct horse\n").stdout) == {
        "name": "ann",
        "groups": [],
        "scopes": ["operate", "read"],
    }
    again = cli(*arguments, stdin="correct horse\n")
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_check_finds_a_bad_cron_an_unknown_dependency_and_a_cycle_at_once(cli, tmp_path):
    def write(name, text):
        package = tmp_path / "collectors" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "tasks.py").write_text("from collectkit import collector, cron\n" + text)

    write("bad", "@collector(periodic=cron('61 * * * *'))\ndef bad(run): ...\n")
    write("lost", "@collector(periodic=cron('@daily'), depends_on=['nobody'])\ndef lost(run): ...\n")
    write(
        "circle",
        "@collector(periodic=cron('@daily'), depends_on=['collectors.circle.tasks.b'])\ndef a(run): ...\n"
        "@collector(periodic=cron('@daily'), depends_on=[a])\ndef b(run): ...\n",
    )

    done = cli("check")

    assert done.returncode == 1
    for words in ("collectors.bad.tasks: schedule '61 * * * *'", "'nobody'", "a cycle of depends_on and after"):
        assert words in done.stdout


def test_a_new_collector_runs_beside_the_shipped_ones_with_no_other_edit(cli):
    assert cli("new", "mine").returncode == 0
    assert cli("migrate").returncode == 0

    assert json.loads(cli("run", "mine", "--json").stdout)["counts"]["inserted"] == 3

    names = set(json.loads(cli("status", "--json").stdout)["collectors"])
    assert {"collectors.mine.tasks.mine_collector", "collectors.kev.tasks.kev_collector"} <= names
    checked = cli("check")
    assert checked.returncode == 0
    assert checked.stdout.startswith("not looked at: the broker (no broker: set COLLECTKIT_BROKER_URL")


def test_importing_a_collector_touches_no_server_and_needs_no_setup(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import collectors.kev.tasks as t; print(t.kev_collector.name)"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLLECTKIT_DATABASE_URL": "", "COLLECTKIT_BROKER_URL": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "collectors.kev.tasks.kev_collector\n"


def test_migrations_of_another_project_in_the_working_directory_are_left_alone(cli, tmp_path):
    package = tmp_path / "collectors" / "bare"  # without __init__.py, as it happens
    package.mkdir(parents=True)
    (package / "tasks.py").write_text(
        "from collectkit import collector, cron\n@collector(periodic=cron('@daily'))\ndef bare(run): ...\n"
    )
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_foreign.py").write_text("def up(migrator, db): raise SystemExit('ran')\n")

    done = cli("migrate")

    assert done.returncode == 0, done.stderr
    assert "added collector collectors.bare.tasks.bare" in done.stdout


def test_a_module_that_gives_up_at_import_is_named_and_harms_no_other(cli, tmp_path):
    for name, text in {
        "gone": "import sys; sys.exit('a key is wanted')",
        "lost": "import nothing_of_that_name",
        ".hidden": "import nothing_of_that_name_either",
    }.items():
        package = tmp_path / "collectors" / name
        package.mkdir(parents=True)
        (package / "tasks.py").write_text(text)

    listed = cli("list")
    asked = cli("run", "lost")

    assert listed.returncode == 1
    assert "collectors.kev.tasks.kev_collector" in listed.stdout
    assert "collectors.gone.tasks: SystemExit: a key is wanted" in listed.stderr
    assert "hidden" not in listed.stderr
    assert asked.returncode == 1
    assert "no collector is called 'lost'" in asked.stderr
    assert "collectors.lost.tasks: ModuleNotFoundError: No module named 'nothing_of_that_name'" in asked.stderr


def test_where_no_collector_can_be_imported_nothing_is_migrated(cli, db):
    done = cli("migrate", COLLECTKIT_COLLECTORS="collectors.kve")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "collectkit: collectors.kve: ModuleNotFoundError: No module named 'collectors.kve'",
        "no collector can be imported: nothing was done",
    ]


@pytest.mark.parametrize("name", ["example", "kev"])
def test_a_collector_that_its_setting_switches_off_is_declared_as_disabled(cli, name):
    rows = json.loads(cli("list", "--json", **{f"{name.upper()}_COLLECTOR_ENABLED": "false"}).stdout)

    assert [row["enabled"] for row in rows if row["name"] == f"collectors.{name}.tasks.{name}_collector"] == [False]
