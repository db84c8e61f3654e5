"""Loads into a table with access groups: rows get the groups declared, and what is hidden is counted, never told."""

from __future__ import annotations

import logging

import peewee
import pytest
from playhouse.postgres_ext import DateTimeTZField

from collectkit import Acl, AclModel, Counts, Model, acl_scope, collector, cron, named_acl, set_user_acls
from collectkit.broker import broker
from collectkit.database import ledger_db
from collectkit.errors import DeclarationError, SnapshotRefused
from tests.secured import Archive, Paper, ident

HOURLY = cron("0 * * * *")
OURS = Acl(read=["red"], write=["keepers"])


class Folder(AclModel):
    name = peewee.TextField(primary_key=True)
    label = peewee.TextField(unique=True, null=True)
    gone_at = DateTimeTZField(null=True)


class Page(Model):
    paper = peewee.ForeignKeyField(Paper, on_delete="CASCADE")
    number = peewee.IntegerField()
    text = peewee.TextField(default="")

    class Meta:
        primary_key = peewee.CompositeKey("paper", "number")
        acl_through = "paper"


@pytest.fixture
def run(db):
    """Runs a function once as a collector, and gives its outcome."""

    def run_it(fn, acl=OURS, **options):
        options = {"periodic": HOURLY, "data_models": [Paper, Folder, Page], "name": "tests.papers"} | options
        broker.actors.pop(options["name"], None)
        declared = collector(acl=acl, **options)(fn)
        db.enrol(declared)
        outcome = declared.run_now()
        assert outcome.reason is None, outcome.reason
        return outcome

    return run_it


@pytest.fixture
def load(run):
    def load_it(rows, act="upsert", model=Paper, acl=OURS, **options):
        def fn(run):
            with run.checkpoint(updated_until_dt=run.started_at) as batch:
                getattr(batch, act)(model, rows, **options)

        return run(fn, acl).counts

    return load_it


@pytest.fixture
def archive(db, run):
    run(lambda _run: None)
    made = Archive(db.settings.database_url)
    yield made
    made.close()


def papers(*names, text=""):
    return [{"name": name, "text": text} for name in names]


def test_rows_are_stamped_with_the_groups_of_the_collector(load, archive):
    assert load(papers("a", "b")) == Counts(inserted=2)

    assert archive.groups == dict.fromkeys("ab", ([ident("red")], [ident("keepers")]))
    assert load(papers("a", "b")) == Counts(unchanged=2)


def test_rows_that_are_sequences_are_stamped_too(load, archive):
    assert load([("a", "x")]) == Counts(inserted=1)
    assert archive.groups["a"] == ([ident("red")], [ident("keepers")])


def test_rows_may_bring_groups_of_their_own_by_name_or_id(load, archive):
    several = Acl(read=["red", "green"], write=["keepers"])
    rows = [
        {"name": "by name", "acl_read": ["green", "red"], "acl_write": ["keepers"]},
        {"name": "by id", "acl_read": [ident("green")], "acl_write": [ident("keepers")]},
    ]

    assert load(rows, acl=several) == Counts(inserted=2)
    assert archive.groups["by name"][0] == sorted([ident("red"), ident("green")])
    assert archive.groups["by id"][0] == [ident("green")]
    assert load(rows, acl=several) == Counts(unchanged=2)


def test_other_groups_declared_are_written_to_the_rows_that_the_collector_sees(load, archive):
    load(papers("a"))

    assert load(papers("a"), acl=Acl(read=["red", "green"], write=["keepers"])) == Counts(updated=1)
    assert archive.groups["a"][0] == sorted([ident("red"), ident("green")])


@pytest.mark.parametrize("act", ["upsert", "replace"])
def test_a_row_in_the_place_of_a_hidden_one_is_denied_and_no_message_names_it(load, archive, caplog, act):
    archive.put("hidden", ["green"], text="secret")
    caplog.set_level(logging.INFO)

    counts = load(papers("hidden", "new", text="ours"), act)

    assert counts == Counts(inserted=1, denied=1)
    assert archive.rows == {"hidden": "secret", "new": "ours"}
    assert "rows denied by access groups: 1" in caplog.text
    assert "hidden" not in caplog.text
    assert "hidden" not in str(ledger_db.run("SELECT counts, result, error FROM collectkit.run"))


def test_a_hidden_row_that_holds_another_unique_value_is_in_the_way_too(load, archive):
    archive.run(
        "INSERT INTO folder (name, label, acl_read, acl_write) VALUES ('hidden', 'taken', %s, %s)",
        [[ident("green")], [ident("keepers")]],
    )

    counts = load([{"name": "a", "label": "taken"}, {"name": "b", "label": "free"}], model=Folder)

    assert counts == Counts(inserted=1, denied=1)


@pytest.fixture
def labels(load, archive):
    """Folders that we see, each with the label of its name in capitals, and a hidden one labelled "taken"."""
    load([{"name": name, "label": name.upper()} for name in "abcdefgh"], model=Folder)
    archive.run(
        "INSERT INTO folder (name, label, acl_read, acl_write) VALUES ('hidden', 'taken', %s, %s)",
        [[ident("green")], [ident("keepers")]],
    )

    def of(*names):
        found = dict(archive.run("SELECT name, label FROM folder"))
        assert found["hidden"] == "taken"
        return [found[name] for name in names]

    return of


def folders(**labels):
    return [{"name": name, "label": label} for name, label in labels.items()]


@pytest.mark.parametrize("act", ["upsert", "replace"])
def test_a_row_that_would_take_the_unique_value_of_a_hidden_one_is_denied_and_the_others_are_written(
    load, labels, caplog, act
):
    caplog.set_level(logging.INFO)

    counts = load(folders(a="A", b="1", c="taken", d="2", e="E", f="F", g="3", h="H", i="4"), act, Folder)

    assert counts == Counts(inserted=1, updated=3, unchanged=4, denied=1)
    assert labels(*"abcdefghi") == ["A", "1", "C", "2", "E", "F", "3", "H", "4"]
    assert "rows denied by access groups: 1" in caplog.text
    told = caplog.text + str(ledger_db.run("SELECT counts, result, error FROM collectkit.run"))
    assert not [word for word in ("taken", "hidden", "duplicate", "folder_label") if word in told]


def test_a_row_that_waits_for_a_value_which_a_denied_one_keeps_is_denied_too(load, labels):
    counts = load(folders(a="taken", b="A", c="B", d="1", i="A"), model=Folder)

    assert counts == Counts(updated=1, denied=4)
    assert labels(*"abcd") == ["A", "B", "C", "1"]


def test_a_value_that_another_row_gives_up_is_taken_over_beside_a_denied_row(load, labels):
    counts = load(folders(a="B", b="C", c="D", d="1", e="taken"), model=Folder)

    assert counts == Counts(updated=4, denied=1)
    assert labels(*"abcde") == ["B", "C", "D", "1", "E"]


def test_of_many_rows_each_that_can_be_written_is(load, labels, archive):
    names = [f"many {number}" for number in range(1500)]
    load([{"name": name, "label": name} for name in names], model=Folder)
    archive.run(
        "INSERT INTO folder (name, label, acl_read, acl_write) SELECT 'x' || n, 'new ' || n, %s, %s"
        " FROM generate_series(0, 1499, 300) n",
        [[ident("green")], [ident("keepers")]],
    )

    counts = load([{"name": name, "label": f"new {number}"} for number, name in enumerate(names)], model=Folder)

    assert counts == Counts(updated=1495, denied=5)


@pytest.mark.parametrize(
    "rows",
    [folders(a="B"), folders(a="1", b="1"), folders(a="B", b="A")],
    ids=["held by a row that the source does not mention", "given to two rows", "swapped"],
)
@pytest.mark.parametrize("denied", [[], folders(c="taken")], ids=["alone", "beside a denied row"])
def test_a_unique_value_that_a_row_in_sight_holds_is_refused(run, labels, rows, denied):
    def fn(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Folder, [*denied, *rows, *folders(h="new")])

    with pytest.raises(AssertionError, match=r'duplicate key value violates unique constraint "folder_label"'):
        run(fn)
    assert labels(*"abch") == ["A", "B", "C", "H"]


def test_unique_values_are_swapped_where_the_constraint_waits_for_the_end_of_the_statement(load, labels, archive):
    archive.run("DROP INDEX folder_label; ALTER TABLE folder ADD CONSTRAINT label UNIQUE (label) DEFERRABLE")

    assert load(folders(a="B", b="A"), model=Folder) == Counts(updated=2)
    assert load(folders(a="A", c="taken", b="B"), model=Folder) == Counts(updated=2, denied=1)
    assert labels("a", "b", "c") == ["A", "B", "C"]


def test_the_key_of_a_row_that_comes_twice_stays_out_of_the_log(load, archive, caplog):
    caplog.set_level(logging.INFO)

    counts = load(papers("secret", text="first") + papers("secret", text="last"))

    assert counts == Counts(inserted=1, rejected=1)
    assert "rows superseded by a later row of the same key: 1" in caplog.text
    assert "secret" not in caplog.text


def test_a_row_that_may_be_read_and_not_written_is_denied_if_it_differs(load, archive):
    archive.put("theirs", ["red"], ["blue"], text="as it was")

    assert load(papers("theirs", "ours", text="new")) == Counts(inserted=1, denied=1)
    assert archive.rows["theirs"] == "as it was"


def test_what_a_load_reads_by_a_query_it_reads_under_the_scope_of_now(run, archive):
    archive.put("ours", ["red"])
    archive.put("hidden", ["green"])

    def fn(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            with acl_scope(["green", "keepers"]):
                assert [paper.name for paper in Paper.select()] == ["hidden"]
            return str(batch.upsert(Folder, Paper.select(Paper.name)))

    run(fn)
    assert archive.run("SELECT name FROM folder") == [("ours",)]


def test_rows_are_removed_under_the_scope_of_now(run, archive):
    archive.put("ours", ["red"])
    archive.put("hidden", ["green"])

    def keys():
        with acl_scope(["green", "keepers"]):
            yield from [paper.name for paper in Paper.select()]
        yield "ours"

    def fn(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            with acl_scope(["green", "keepers"]):
                list(Paper.select())
            batch.remove(Paper, keys(), max_shrink=1)

    assert run(fn).counts == Counts(removed=1)
    assert set(archive.rows) == {"hidden"}


@pytest.mark.parametrize("model", [Paper, Folder])
def test_a_replace_removes_only_what_it_may_see_and_write(load, archive, model):
    table = model._meta.table_name
    load([{"name": "a"}, {"name": "b"}], model=model)
    for name, read, write in (("hidden", "green", "keepers"), ("theirs", "red", "blue")):
        archive.run(
            f"INSERT INTO {table} (name, text, acl_read, acl_write) VALUES (%s, '', %s, %s)"
            if model is Paper
            else f"INSERT INTO {table} (name, acl_read, acl_write) VALUES (%s, %s, %s)",
            [name, [ident(read)], [ident(write)]],
        )

    counts = load([{"name": "a"}], "replace", model, max_shrink=0.5)

    live = "SELECT name FROM folder WHERE gone_at IS NULL" if model is Folder else "SELECT name FROM paper"
    assert counts == Counts(unchanged=1, removed=1)
    assert {name for (name,) in archive.run(live)} == {"a", "hidden", "theirs"}


def test_a_removal_by_key_reaches_only_what_it_may_see_and_write(load, archive):
    load(papers("a", "b"))
    archive.put("hidden", ["green"])
    archive.put("theirs", ["red"], ["blue"])

    counts = load(["a", "hidden", "theirs"], "remove", max_shrink=0.5)

    assert counts == Counts(removed=1)
    assert sorted(archive.rows) == ["b", "hidden", "theirs"]


def test_rows_of_others_do_not_count_when_a_snapshot_shrinks(run, archive):
    for number in range(20):
        archive.put(f"theirs {number}", ["red"], ["blue"])

    def fn(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Paper, papers("a", "b"))
            with pytest.raises(SnapshotRefused, match="1 of 2 rows"):
                batch.replace(Paper, papers("a"))

    run(fn)


def test_rows_with_groups_that_the_run_has_not_are_refused(db, run, archive):
    def fn(run):
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Paper, [{"name": "a", "acl_read": ["green"], "acl_write": ["keepers"]}])

    with pytest.raises(AssertionError, match=r"row-level security.*a group of the run's to read it"):
        run(fn)
    assert archive.rows == {}


@pytest.mark.parametrize(
    ("acl", "reason"),
    [
        (None, "no group is in force: say acl= at the collector"),
        (["internal", "embargo"], "the rows have no 'acl_read'"),
    ],
)
def test_a_load_that_could_only_be_refused_says_what_is_missing(load, archive, acl, reason):
    with pytest.raises(AssertionError, match=reason):
        load(papers("a"), acl=acl)


def test_a_collector_of_several_levels_gives_each_row_its_own(run, archive):
    def fn(run):
        rows = [
            {"name": level, "acl_read": named_acl(level).read, "acl_write": named_acl(level).write}
            for level in ("internal", "embargo")
        ]
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            return str(batch.replace(Paper, rows))

    run(fn, ["internal", "embargo"])

    def names(*groups):
        with acl_scope(groups):
            return {paper.name for paper in Paper.select()}

    assert names("internal") == {"internal"}
    assert names("embargo") == {"embargo"}
    assert names("public", "internal-write", "embargo-write") == set()


def test_a_row_that_belongs_to_another_has_its_groups(load, archive):
    load(papers("ours"))
    archive.put("hidden", ["green"])
    archive.run("INSERT INTO page (paper_id, number, text) VALUES ('hidden', 1, 'secret')")

    counts = load([{"paper": "ours", "number": 1}], "replace", Page)
    assert counts == Counts(inserted=1)
    assert load([{"paper": "ours", "number": 1, "text": "new"}], "replace", Page) == Counts(updated=1)

    with acl_scope(["red"]):
        assert [page.text for page in Page.select()] == ["new"]
    with acl_scope(["green"]):
        assert [page.text for page in Page.select()] == ["secret"]
    assert list(Page.select()) == []
    with pytest.raises(AssertionError, match=r"row-level security.*the row that a row belongs to must be there"):
        load([{"paper": "hidden", "number": 2}], model=Page)


def test_a_privilege_that_the_role_lacks_is_not_taken_for_a_group(load, archive):
    ledger_db.run("REVOKE INSERT ON paper FROM CURRENT_USER")

    with pytest.raises(AssertionError, match=r"stand: permission denied for table paper\n"):
        load(papers("a"))


def test_a_run_reads_and_writes_under_its_groups_and_leaves_none_behind(run, archive):
    archive.put("a", ["red"])
    archive.put("hidden", ["green"])

    def fn(run):
        outside = [paper.name for paper in Paper.select()]
        with run.checkpoint(updated_until_dt=run.started_at):
            inside = [paper.name for paper in Paper.select()]
            Paper.update(text="seen").where(Paper.name.is_null(False)).execute()
        return f"{outside} {inside}"

    with acl_scope(["green"]):
        run(fn)
        assert [paper.name for paper in Paper.select()] == ["hidden"]

    assert ledger_db.run("SELECT result FROM collectkit.run ORDER BY id DESC LIMIT 1") == [("['a'] ['a']",)]
    assert archive.rows == {"a": "seen", "hidden": ""}
    assert list(Paper.select()) == []


def test_a_run_without_groups_has_none_whoever_calls_it(run, archive):
    archive.put("a", ["red"])

    with acl_scope(["red"]):
        run(lambda _run: Paper.select().count(), acl=None)

    assert ledger_db.run("SELECT result FROM collectkit.run ORDER BY id DESC LIMIT 1") == [("0",)]


def groups_of_the_last_run():
    return ledger_db.run("SELECT acl_read, acl_write FROM collectkit.run ORDER BY id DESC LIMIT 1")[0]


def test_the_groups_a_run_acted_under_are_kept_with_it(run, archive):
    run(lambda _run: None)
    assert groups_of_the_last_run() == (["red"], ["keepers"])

    run(lambda _run: None, acl="public")
    assert groups_of_the_last_run() == (["public"], ["public-write"])

    def others(_run):
        set_user_acls(["red", "blue"])
        with acl_scope(["green"]):
            pass

    run(others)
    assert groups_of_the_last_run() == (["blue", "green", "red"], ["blue", "green", "keepers"])

    run(lambda _run: None, acl=None)
    assert groups_of_the_last_run() == (None, None)


def test_a_run_that_was_lost_keeps_the_groups_of_what_it_committed(run, archive):
    def fn(run):
        run.store(updated_until_dt=run.started_at)
        ((kept,),) = ledger_db.run("SELECT acl_read FROM collectkit.run WHERE id = %(id)s", {"id": run.id})
        return kept

    run(fn)

    assert ledger_db.run("SELECT result FROM collectkit.run ORDER BY id DESC LIMIT 1") == [("['red']",)]


@pytest.mark.parametrize("acl", ["secret", "", [], ["public", "secret"]])
def test_a_level_that_does_not_exist_is_an_error_at_import(acl):
    with pytest.raises(DeclarationError, match="public, internal, embargo"):
        collector(periodic=HOURLY, acl=acl, name="tests.secret")(lambda _run: None)


def test_groups_that_nobody_could_use_are_refused():
    with pytest.raises(ValueError, match="out of everybody's reach"):
        Acl(read=["red"], write=[])
    with pytest.raises(TypeError):
        Acl(read="red", write="red")
