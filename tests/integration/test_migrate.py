"""Migration and reconciliation: what the code says becomes what the ledger holds, and nothing is lost by it."""

from __future__ import annotations

import re
import sys
import threading
from datetime import timedelta
from types import ModuleType

import peewee
import pytest

from collectkit import Model, collector, cron, ledger
from collectkit.broker import broker
from collectkit.closing import closing
from collectkit.database import ledger_db
from collectkit.discovery import Discovered, describe, graph_faults
from collectkit.drift import drift, warn_of_drift
from collectkit.errors import CollectkitError, DatabaseUnavailable
from collectkit.migrate import migrate, reconcile


class Table(Model):
    id = peewee.IntegerField(primary_key=True)


def declare(schedule="0 * * * *", name="collectors.t.tasks.t", **options):
    broker.actors.pop(name, None)
    return collector(periodic=cron(schedule), name=name, **options)(lambda _run: None)


def row(what):
    return ledger_db.run(f"SELECT {what} FROM collectkit.collector")[0][0]


def test_migrating_twice_does_nothing_the_second_time(db):
    found = describe([declare(data_models=[Table])])

    assert migrate(found) == ["created table table", "added collector collectors.t.tasks.t"]
    assert migrate(found) == []


def test_a_waiting_collector_follows_a_changed_schedule(db):
    reconcile(describe([declare("0 0 1 1 *")]))
    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() + interval '100 days'")

    reconcile(describe([declare("*/5 * * * *")]))

    assert row("next_due_at < clock_timestamp() + interval '5 min 1 s'")


def test_a_due_retrying_or_running_collector_is_never_delayed_by_a_changed_schedule(db):
    reconcile(describe([declare("*/5 * * * *")]))
    was = row("next_due_at")

    reconcile(describe([declare("0 0 1 1 *")]))
    assert row("next_due_at") == was

    held = ledger.claim("collectors.t.tasks.t", ttl=timedelta(seconds=30), worker="w")
    reconcile(describe([declare("0 0 1 2 *")]))
    ledger.close(held, closing(held, "HANDED_OVER", at=held.started_at), timedelta(seconds=30))
    assert row("next_due_at") == was


def test_what_is_gone_is_retired_and_comes_back_with_its_watermark(db):
    found = describe([declare()], packages=["collectors"])
    reconcile(found)
    ledger_db.run("UPDATE collectkit.collector SET data_state = 'COMPLETE', updated_until_dt = now()")

    assert reconcile(Discovered(("collectors",), {})) == ["retired collector collectors.t.tasks.t"]
    assert row("retired_at IS NOT NULL")

    assert reconcile(found) == ["changed collector collectors.t.tasks.t"]
    assert row("retired_at IS NULL AND data_state = 'COMPLETE'")


def test_the_freshness_of_what_comes_back_with_another_schedule_is_reckoned_by_that(db):
    reconcile(describe([declare()], packages=["collectors"]))
    ledger_db.run(
        "UPDATE collectkit.collector SET data_state = 'COMPLETE', updated_until_dt = '2031-01-01 12:00Z',"
        " stale_at = '2031-01-01 14:00Z'"
    )
    reconcile(Discovered(("collectors",), {}))

    reconcile(describe([declare("0 0 * * *")], packages=["collectors"]))

    assert row("stale_at = '2031-01-03 00:00Z'")


def test_nothing_is_retired_after_an_import_error_or_outside_the_packages(db):
    reconcile(describe([declare()], packages=["collectors"]))

    assert reconcile(Discovered(("collectors",), {}, ("collectors.t.tasks: broken",))) == []
    assert reconcile(Discovered(("others",), {})) == []


def test_drift_is_named_and_only_migrate_mends_it(db):
    found = describe([declare()])
    assert "has no row in the ledger yet" in drift(found)[0]

    reconcile(found)
    assert drift(found) == []

    assert "differs from the ledger" in drift(describe([declare("1 * * * *")]))[0]


def test_a_process_that_starts_before_the_migration_says_so_and_goes_on(db, caplog):
    warn_of_drift(describe([declare()]))
    assert "collector 'collectors.t.tasks.t': it has no row in the ledger yet" in caplog.text

    ledger_db.run("DROP SCHEMA collectkit CASCADE")
    warn_of_drift(describe([declare()]))


def test_unknown_names_disabled_dependencies_and_cycles_are_all_named_at_once(db):
    found = describe(
        [
            declare(name="a", depends_on=["b"]),
            declare(name="b", depends_on=["a", "nobody"]),
            declare(name="c", depends_on=["off"]),
            declare(name="off", enabled=False),
        ]
    )

    faults = "\n".join(graph_faults(found.declarations.values()))

    assert "depends_on names 'nobody'" in faults
    assert "depends on 'off', which is disabled" in faults
    assert "cycle" in faults


def test_after_counts_in_a_cycle(db):
    found = describe([declare(name="a", depends_on=["b"]), declare(name="b", after=["a"])])

    (fault,) = graph_faults(found.declarations.values())
    assert fault.startswith("a cycle of depends_on and after: ")


def test_a_table_whose_index_cannot_be_made_is_not_left_without_it(db):
    class Indexed(Model):
        id = peewee.IntegerField(primary_key=True)
        word = peewee.TextField()

    Indexed.add_index(peewee.SQL("CREATE UNIQUE INDEX indexed_word ON indexed (wrod)"))
    found = describe([declare(data_models=[Table, Indexed])])

    with pytest.raises(CollectkitError, match="wrod"):
        migrate(found)
    left = ledger_db.run("SELECT to_regclass('table'), to_regclass('indexed')")
    Indexed._meta.indexes[:] = [peewee.SQL("CREATE UNIQUE INDEX indexed_word ON indexed (word)")]
    migrate(found)

    assert left == [(None, None)]
    assert ledger_db.run("SELECT indexname FROM pg_indexes WHERE indexname = 'indexed_word'")


def test_collectors_tables_are_in_public_whatever_the_role_is_called(db):
    migrate(describe([declare(data_models=[Table])]))

    assert ledger_db.run("SELECT schemaname FROM pg_tables WHERE tablename = 'table'") == [("public",)]


@pytest.mark.parametrize(
    ("migration", "words"),
    [
        (
            "def up(_, db): db.execute_sql('SELECT nothing')",
            'refused a step of boxes: ProgrammingError: column "nothing" does not',
        ),
        (
            """def up(_, db):
                db.execute_sql("CREATE TABLE box AS SELECT 'hunter2' AS name FROM generate_series(1, 2)")
                db.execute_sql("CREATE UNIQUE INDEX box_name ON box (name)")""",
            'refused a step of boxes: IntegrityError: could not create unique index "box_name"; nothing of that step',
        ),
        ("def up(_, db): db.no_such_thing", "a migration of boxes failed: AttributeError: "),
        ("", "a migration of boxes failed: MigrationError: 0001_boxes does not define up()"),
    ],
    ids=["sql", "rows", "python", "none"],
)
def test_a_migration_that_fails_names_its_package(db, tmp_path, monkeypatch, migration, words):
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_boxes.py").write_text(migration)
    tasks = ModuleType("boxes.tasks")
    tasks.__file__ = str(tmp_path / "tasks.py")
    monkeypatch.setitem(sys.modules, "boxes.tasks", tasks)
    boxes = declare(name="boxes.tasks.boxes")
    monkeypatch.setattr(boxes.fn, "__module__", "boxes.tasks")

    with pytest.raises(CollectkitError, match=re.escape(words)):
        migrate(describe([boxes]))


@pytest.mark.parametrize("point", ["migrate.locked", "migrate.schema"])
def test_a_migrate_that_is_stopped_on_its_way_does_not_hold_the_next_one_back_for_ever(db, monkeypatch, point):
    stopped, awake, said = threading.Event(), threading.Event(), []

    def stop_once(at):
        if at == point and not stopped.is_set():
            stopped.set()
            awake.wait(60)

    def be_stopped():
        try:
            migrate(describe([declare(data_models=[Table])]))
        except DatabaseUnavailable as error:
            said.append(str(error))
        finally:
            ledger_db.let_go()

    monkeypatch.setattr("collectkit.migrate.reached", lambda at, *_: stop_once(at))
    monkeypatch.setattr("collectkit.migrate._IDLE_LIMIT_MS", 300)
    first = threading.Thread(target=be_stopped)
    first.start()
    stopped.wait(60)
    # For the one who comes after it, a busy machine's pauses are no idleness.
    monkeypatch.setattr("collectkit.migrate._IDLE_LIMIT_MS", 30_000)
    done = migrate(describe([declare(data_models=[Table])]))
    awake.set()
    first.join()

    assert "created table table" in done
    assert "nothing of that step was kept, run it again" in said[0]
