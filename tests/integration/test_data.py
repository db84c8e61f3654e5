"""Rows over HTTP: each caller sees those of its groups, nobody sees more, and nothing tells what is hidden."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import falcon.testing
import msgspec
import peewee
import psycopg
import pytest

from collectkit import AclModel, Model, acl_scope, collector, cron
from collectkit.broker import broker
from collectkit.database import database, ledger_db, writing
from collectkit.discovery import describe
from collectkit.migrate import migrate
from collectkit.scope import in_force
from service import accounts, create_app
from service.keys import signing_key
from service.tokens import Tokens
from tests.integration.test_service import forged

PASSWORD = "correct horse battery"
DATA = "/collectors/api/v1/data"


class Entry(AclModel):
    part = peewee.TextField()
    number = peewee.IntegerField()
    price = peewee.DecimalField(6, 2, null=True)

    class Meta:
        primary_key = peewee.CompositeKey("part", "number")
        served = True


class Order(AclModel):
    name = peewee.TextField(primary_key=True)


class Line(Model):
    """A line of an order; it is seen by whoever sees the order."""

    order = peewee.ForeignKeyField(Order)
    number = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("order", "number")
        acl_through = "order"
        served = True


class Unserved(AclModel):
    name = peewee.TextField(primary_key=True)


class Open(Model):
    name = peewee.TextField(primary_key=True)

    class Meta:
        served = True


def declare(*models):
    broker.actors.pop("tests.entries", None)

    @collector(periodic=cron("0 * * * *"), data_models=models, acl=["public", "internal"], name="tests.entries")
    def entries(run):
        rows = [
            {"part": level, "number": number, "price": "0.50", "acl_read": [level], "acl_write": [f"{level}-write"]}
            for level in ("public", "internal")
            for number in range(1, 6)
        ]
        with run.checkpoint(updated_until_dt=run.started_at) as batch:
            batch.upsert(Entry, rows)

    return entries


@pytest.fixture
def entries(db):
    declared = declare(Entry, Unserved, Open)
    db.enrol(declared)
    assert declared.run_now().outcome == "OK"
    return declared


@pytest.fixture
def settings(db, broker_url):
    return msgspec.structs.replace(db.settings, broker_url=broker_url)


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def ask(client, settings):
    """Asks as somebody with these groups."""
    tokens = Tokens(signing_key(settings))

    def ask_it(address, *groups, code=200):
        account = accounts.Account(name="ann", password="", groups=list(groups), scopes=["read"])
        path, _, query = address.partition("?")
        header = {"Authorization": f"Bearer {tokens.access(account)}"}
        answer = client.simulate_get(path, query_string=query, headers=header)
        assert answer.status_code == code, answer.text
        return answer.json

    return ask_it


def numbers(answer):
    return [(row["part"], row["number"]) for row in answer["rows"]]


def test_each_caller_sees_the_rows_of_its_groups(entries, ask):
    assert {part for part, _ in numbers(ask(f"{DATA}/entry", "public"))} == {"public"}
    assert {part for part, _ in numbers(ask(f"{DATA}/entry", "internal", "others"))} == {"internal"}
    assert len(numbers(ask(f"{DATA}/entry", "public", "internal"))) == 10
    assert numbers(ask(f"{DATA}/entry", "public-write")) == []
    assert ask(f"{DATA}/entry") == {"rows": [], "next": None}


def test_a_row_has_the_columns_of_the_model_without_its_groups(entries, ask):
    assert ask(f"{DATA}/entry?limit=1", "public")["rows"] == [{"part": "public", "number": 1, "price": 0.5}]


def test_pages_follow_each_other_in_the_order_of_the_key_and_end(entries, ask):
    seen, address = [], f"{DATA}/entry?limit=4&part=public&part=internal"
    while address:
        answer = ask(address, "public", "internal")
        seen.append(numbers(answer))
        address = answer["next"]

    assert [len(page) for page in seen] == [4, 4, 2]
    in_order = [(part, number) for part in ("internal", "public") for number in range(1, 6)]
    assert [row for page in seen for row in page] == in_order


def test_rows_are_filtered_by_the_key_and_a_hidden_one_is_as_good_as_none(entries, ask):
    assert numbers(ask(f"{DATA}/entry?part=public&number=3", "public")) == [("public", 3)]
    assert numbers(ask(f"{DATA}/entry?number=3&number=1", "public")) == [("public", 1), ("public", 3)]

    hidden = ask(f"{DATA}/entry?part=internal&number=3", "public")
    missing = ask(f"{DATA}/entry?part=internal&number=99", "public")
    assert hidden == missing == {"rows": [], "next": None}


@pytest.mark.parametrize(
    "query",
    ["price=1", "number=x", "limit=0", "after=x", 'after=["a"]', 'after=["a","b"]', "&".join(["number=1"] * 101)],
)
def test_a_question_that_cannot_be_answered_is_400(entries, ask, query):
    assert ask(f"{DATA}/entry?{query}", "public", code=400)["detail"]


@pytest.mark.parametrize("table", ["unserved", "nothing", "collectkit.account", "account", "entry;", "pg_class"])
def test_a_table_that_did_not_opt_in_is_as_good_as_none(entries, ask, table):
    assert ask(f"{DATA}/{table}", "public", code=404)["detail"].startswith("no table is served")


def test_a_table_without_groups_may_be_served_too(entries, ask, db):
    assert ask(f"{DATA}/open") == {"rows": [], "next": None}


def test_without_a_token_that_holds_there_is_401_and_nothing_else(entries, client, settings):
    account = accounts.Account(name="ann", password="", groups=["public"], scopes=["read"])
    tokens = Tokens(signing_key(settings))
    refused = [*forged(settings, tokens.access(account)).values(), tokens.refresh(account), ""]

    for token in refused:
        answer = client.simulate_get(f"{DATA}/entry", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, set(answer.json)) == (401, {"type", "title", "status", "detail"})
        assert "public" not in answer.text
        assert in_force() is None


def test_an_account_without_the_scope_read_is_refused(entries, client, settings):
    account = accounts.Account(name="ann", password="", groups=["public"], scopes=["operate"])
    header = {"Authorization": f"Bearer {Tokens(signing_key(settings)).access(account)}"}

    assert client.simulate_get(f"{DATA}/entry", headers=header).status_code == 403


def test_no_groups_stay_in_force_after_a_request_nor_come_into_it(entries, ask):
    with acl_scope(["internal"]):
        assert {part for part, _ in numbers(ask(f"{DATA}/entry", "public"))} == {"public"}
        assert ask(f"{DATA}/entry")["rows"] == []
        ask(f"{DATA}/entry?limit=x", "public", code=400)
    assert in_force() is None
    assert Entry.select().count() == 0


def test_callers_at_once_see_their_own_rows_on_the_same_connections(entries, ask):
    def one(number):
        group = ("public", "internal")[number % 2]
        found = {part for part, _ in numbers(ask(f"{DATA}/entry", group))}
        ledger_db.let_go()
        database.close()  # back into the pool, for whoever comes next
        return found == {group}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(400)))


def test_a_table_whose_policies_were_changed_is_not_served_until_they_are_mended(entries, ask):
    ledger_db.run("ALTER POLICY collectkit_select ON entry USING (true)")

    assert "collectkit check" in ask(f"{DATA}/entry", "public", code=503)["detail"]
    assert migrate(describe([entries])) == ['secured table "public"."entry"']
    assert len(ask(f"{DATA}/entry", "public")["rows"]) == 5

    ledger_db.run("CREATE POLICY opened ON entry USING (true)")
    ask(f"{DATA}/entry", "public", code=503)
    migrate(describe([entries]))
    ask(f"{DATA}/entry", "public", code=503)
    ledger_db.run("DROP POLICY opened ON entry")
    migrate(describe([entries]))
    assert len(ask(f"{DATA}/entry", "public")["rows"]) == 5


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
def test_nothing_is_served_once_the_role_has_become_unsafe(entries, ask, superuser_url, attribute):
    """Connections that are open already would show every row to an account without groups."""
    assert ask(f"{DATA}/entry")["rows"] == []
    with psycopg.connect(superuser_url, autocommit=True) as superuser:
        superuser.execute(f"ALTER ROLE collectkit {attribute}")
        try:
            refused = ask(f"{DATA}/entry", code=503)
        finally:
            superuser.execute(f"ALTER ROLE collectkit NO{attribute}")

    assert "collectkit check" in refused["detail"]
    assert len(ask(f"{DATA}/entry", "public")["rows"]) == 5


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("ALTER POLICY collectkit_select ON {} USING (true)", None),
        ("ALTER TABLE {} DISABLE ROW LEVEL SECURITY", None),
        ("CREATE POLICY opened ON {} USING (true)", "DROP POLICY opened ON {}"),
    ],
)
def test_a_table_is_not_served_while_that_which_its_rows_belong_to_is_open(db, ask, breaks, mends):
    declared = declare(Order, Line)
    db.enrol(declared)
    with acl_scope(["internal", "internal-write"]), writing("a test", 30_000):
        Order.insert(name="first", acl_read=["internal"], acl_write=["internal-write"]).execute()
        Line.insert(order="first", number=1).execute()
    line = [{"order_id": "first", "number": 1}]
    assert (ask(f"{DATA}/line", "internal")["rows"], ask(f"{DATA}/line", "public")["rows"]) == (line, [])

    ledger_db.run(breaks.format('"order"'))
    ask(f"{DATA}/line", "public", code=503)
    migrate(describe([declared]))
    if mends:
        ask(f"{DATA}/line", "public", code=503)
        ledger_db.run(mends.format('"order"'))
        migrate(describe([declared]))

    assert (ask(f"{DATA}/line", "internal")["rows"], ask(f"{DATA}/line", "public")["rows"]) == (line, [])


def test_a_table_is_served_no_longer_when_its_model_says_so(entries, ask):
    later = declare(Unserved, Open)

    assert migrate(describe([later])) == ["changed collector tests.entries", "no longer serving table entry"]
    ask(f"{DATA}/entry", "public", code=404)
