"""The guard: six ways in which row security would not hold, each refused, each with the statement that mends it."""

from __future__ import annotations

import subprocess
import sys

import peewee
import psycopg
import pytest

from collectkit import Model, collector, connect, cron, disconnect
from collectkit.database import ledger_db
from collectkit.discovery import describe
from collectkit.errors import DeclarationError, UnsafeRole, UnsafeTables
from collectkit.guard import refuse_unsafe, role_fault, table_faults
from collectkit.migrate import migrate
from collectkit.policies import protected
from collectkit.settings import Settings
from tests.secured import Paper


class Leaf(Model):
    paper = peewee.ForeignKeyField(Paper)

    class Meta:
        acl_through = "paper"


class Vein(Model):
    leaf = peewee.ForeignKeyField(Leaf)

    class Meta:
        acl_through = "leaf"


@pytest.fixture
def papers(db):
    @collector(periodic=cron("0 * * * *"), data_models=[Paper, Leaf, Vein], acl="public", name="tests.papers")
    def papers(run):
        run.store(updated_until_dt=run.started_at)

    db.enrol(papers)
    return papers


@pytest.fixture
def as_superuser(superuser_url):
    """Executes a statement as PostgreSQL's superuser."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        yield connection.execute


def cure_of(fault):
    """The statement at the end of a fault's line."""
    return str(fault).rpartition(": ")[2]


BROKEN = {
    "row security is off": 'ALTER TABLE "paper" DISABLE ROW LEVEL SECURITY',
    "row security does not hold for its owner": 'ALTER TABLE "paper" NO FORCE ROW LEVEL SECURITY',
    "policy collectkit_delete is missing": "DROP POLICY collectkit_delete ON paper",
    "policy collectkit_select was changed": "ALTER POLICY collectkit_select ON paper USING (true)",
    "policy collectkit_insert was changed": "ALTER POLICY collectkit_insert ON paper TO postgres",
    "policy 'open' lets through what ours do not": "CREATE POLICY open ON paper FOR SELECT USING (true)",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_table_whose_row_security_would_not_hold_is_refused_until_the_cure_is_applied(papers, what, as_superuser):
    refuse_unsafe([Paper])
    as_superuser(BROKEN[what])

    with pytest.raises(UnsafeTables) as refused:
        refuse_unsafe([Paper])
    (fault,) = refused.value.faults
    assert fault.startswith(f'table "public"."paper": {what}: ')
    for statement in cure_of(fault).split("; "):
        ledger_db.run(statement)

    refuse_unsafe([Paper])


def test_a_policy_of_a_table_that_belongs_to_another_is_looked_at_too(papers):
    ledger_db.run("ALTER POLICY collectkit_select ON vein USING (true)")

    (fault,) = table_faults(protected([Paper, Leaf, Vein]))
    assert fault.startswith('table "public"."vein": policy collectkit_select was changed: ')
    for statement in cure_of(fault).split("; "):
        ledger_db.run(statement)

    assert table_faults(protected([Paper, Leaf, Vein])) == []


def test_a_table_is_refused_with_the_one_that_its_rows_belong_to(papers):
    ledger_db.run("ALTER TABLE paper DISABLE ROW LEVEL SECURITY")

    with pytest.raises(UnsafeTables, match=r'"public"\."paper": row security is off'):
        refuse_unsafe([Vein])


def test_all_faults_are_named_at_once(papers):
    for broken in BROKEN.values():
        if "postgres" not in broken:
            ledger_db.run(broken)

    assert len(table_faults(protected([Paper]))) == 5


@pytest.fixture
def unsafe(db, superuser_url, as_superuser, request):
    """Connects as a role that row security does not hold for, and gives its name and what is said of it."""
    attribute, said = request.param
    if attribute != "bootstrap":
        as_superuser(f"CREATE ROLE unsafe LOGIN PASSWORD 'unsafe' {attribute} IN ROLE collectkit")
        as_superuser("GRANT ALL ON SCHEMA public, collectkit TO unsafe")
    place = superuser_url.partition("@")[2]
    before = db.settings.database_url
    disconnect()
    theirs = superuser_url if attribute == "bootstrap" else f"postgresql://unsafe:unsafe@{place}"
    connect(Settings(database_url=theirs))
    yield said
    disconnect()
    if attribute != "bootstrap":
        as_superuser("DROP OWNED BY unsafe")
        as_superuser("DROP ROLE unsafe")
    connect(Settings(database_url=before))


ROLES = [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "has BYPASSRLS"), ("bootstrap", "is a superuser")]


@pytest.mark.parametrize("unsafe", ROLES, indirect=True)
def test_an_unsafe_role_is_refused_everywhere(papers, unsafe):
    with pytest.raises(UnsafeRole, match=unsafe):
        refuse_unsafe([])
    with pytest.raises(UnsafeRole, match=unsafe):
        migrate(describe([papers]))
    with pytest.raises(UnsafeRole, match=unsafe):
        Paper.select().count()
    outcome = papers.run_now()
    assert (outcome.outcome, unsafe in outcome.reason) == ("FAILED", True)


@pytest.mark.parametrize("unsafe", ROLES[:2], indirect=True)
def test_the_statement_that_mends_a_role_mends_it(papers, unsafe, as_superuser):
    as_superuser(cure_of(role_fault()))

    assert role_fault() is None
    assert Paper.select().count() == 0


@pytest.mark.parametrize("unsafe", ROLES[2:], indirect=True)
def test_for_the_superuser_that_came_with_the_server_the_cure_is_another_role(papers, unsafe):
    assert "CREATE ROLE" in cure_of(role_fault())


CLOSED = """
import peewee
from collectkit import AclModel, collector, cron

class Closed(AclModel):
    name = peewee.TextField(primary_key=True)

@collector(periodic=cron("0 * * * *"), data_models=[Closed], acl="public")
def closed(run):
    pass
"""


@pytest.mark.parametrize("process", ["scheduler", "worker"])
def test_a_start_with_an_unsafe_table_is_refused_and_check_names_it(db, broker_url, monkeypatch, tmp_path, process):
    def collectkit(*arguments):
        command = [sys.executable, "-m", "collectkit", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)

    (tmp_path / "guarded").mkdir()
    (tmp_path / "guarded" / "tasks.py").write_text(CLOSED)
    monkeypatch.setenv("COLLECTKIT_DATABASE_URL", db.settings.database_url)
    monkeypatch.setenv("COLLECTKIT_BROKER_URL", broker_url)
    monkeypatch.setenv("COLLECTKIT_COLLECTORS", "guarded")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert collectkit("migrate").returncode == 0
    ledger_db.run("ALTER TABLE closed NO FORCE ROW LEVEL SECURITY")

    started, checked = collectkit(process), collectkit("check")

    cure = 'ALTER TABLE "public"."closed" FORCE ROW LEVEL SECURITY'
    assert started.returncode != 0
    assert cure in started.stderr
    assert "Traceback" not in started.stderr
    assert (checked.returncode, checked.stdout.strip().endswith(cure)) == (1, True)


def test_migrate_mends_what_is_missing_and_leaves_to_a_person_what_somebody_else_made(papers):
    for broken in BROKEN.values():
        if "postgres" not in broken:
            ledger_db.run(broken)

    assert migrate(describe([papers])) == ['secured table "public"."paper"']
    assert migrate(describe([papers])) == []
    (fault,) = table_faults(protected([Paper]))
    assert "'open'" in fault


def test_both_columns_are_indexed(papers):
    found = ledger_db.run("SELECT indexdef FROM pg_indexes WHERE tablename = 'paper'")

    assert len([index for (index,) in found if "USING gin" in index]) == 2
    ledger_db.run("DROP INDEX paper_acl_read")
    assert migrate(describe([papers])) == ['indexed acl_read of table "public"."paper"']


def test_a_collector_looks_before_its_first_run_in_a_process_and_fails_in_a_line(papers):
    ledger_db.run("ALTER TABLE paper NO FORCE ROW LEVEL SECURITY")

    outcome = papers.run_now()

    assert outcome.outcome == "FAILED"
    assert "FORCE ROW LEVEL SECURITY" in outcome.reason
    assert "\n" not in outcome.reason


def test_a_table_that_would_tell_of_rows_with_groups_must_say_so():
    class Telling(Model):
        paper = peewee.ForeignKeyField(Paper)

    class Meant(Model):
        paper = peewee.ForeignKeyField(Paper)

        class Meta:
            acl_through = None

    with pytest.raises(DeclarationError, match="say in its Meta acl_through = 'paper'"):
        protected([Telling])
    assert protected([Meant]) == []


@pytest.mark.parametrize("name", ["text", "nothing"])
def test_acl_through_names_a_foreign_key_to_a_table_with_groups(name):
    class Wrong(Model):
        text = peewee.TextField()

        class Meta:
            acl_through = name

    with pytest.raises(DeclarationError, match="is no foreign key"):
        protected([Wrong])
