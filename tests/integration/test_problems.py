"""What the service says when it cannot serve: always a problem in words, nothing about the servers behind."""

from __future__ import annotations

import re
from pathlib import Path

import falcon.testing
import msgspec
import pytest

from collectkit import collector, cron
from collectkit.database import ledger_db
from service import accounts, create_app
from service.app import _routes
from service.keys import signing_key
from service.tokens import Tokens

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"
API = "/collectors/api/v1"


@pytest.fixture
def settings(db, broker_url):
    return msgspec.structs.replace(db.settings, broker_url=broker_url)


@pytest.fixture
def bearer(settings):
    account = accounts.add("ann", PASSWORD, scopes=["read"], groups=["blue"])
    return {"Authorization": f"Bearer {Tokens(signing_key(settings)).access(account)}"}


@pytest.fixture
def client(settings, bearer):
    return falcon.testing.TestClient(create_app(settings), headers=bearer)


@pytest.fixture
def several(db):
    @collector(periodic=cron("0 * * * *"), name="tests.tasks.red_collector")
    def red(run):
        run.store(updated_until_dt=run.started_at)

    @collector(periodic=cron("0 * * * *"), name="tests.tasks.reddish_collector", each=lambda: ["a", "b/c"])
    def reddish(run):
        run.store(updated_until_dt=run.started_at)

    db.enrol(red, reddish)
    return red, reddish


def problem(answer):
    """The document of a problem that is as RFC 9457 wants it."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json
    assert document["type"] == "about:blank"
    assert document["status"] == answer.status_code
    assert document["title"]
    assert "\n" not in document["detail"]
    return document


@pytest.mark.parametrize("path", ["/", "/collectors/none", f"{API}/", f"{API}/status/a/b", "/auth", "/%00"])
def test_an_unknown_address_is_404(client, path):
    answer = client.simulate_get(path)

    assert answer.status_code == 404
    assert "GET /collectors" in problem(answer)["detail"]


def test_another_method_is_405_and_says_which_is_taken(client):
    answer = client.simulate_delete(f"{API}/status")

    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert "GET" in problem(answer)["detail"]


def test_a_caller_who_accepts_no_json_gets_the_problem_all_the_same(client):
    answer = client.simulate_get("/collectors/none", headers={"Accept": "text/xml"})

    assert problem(answer)["status"] == 404


def test_a_name_that_fits_several_is_409_with_the_candidates(client, several):
    answer = client.simulate_get(f"{API}/status/collector")

    assert answer.status_code == 409
    candidates = problem(answer)["candidates"]
    assert "tests.tasks.red_collector" in candidates
    assert "tests.tasks.reddish_collector[a]" in candidates


@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 2000, "tests.tasks.red_collector[", "%25s"])
def test_a_name_that_nobody_has_is_404_whatever_it_holds(client, several, name):
    for path in [f"{API}/status/{name}", f"{API}/collectors/{name}/runs"]:
        assert problem(client.simulate_get(path))["status"] == 404


def test_a_parametrised_collector_stands_for_its_instances_or_for_one(client, several):
    found = client.simulate_get(f"{API}/status/reddish").json["collectors"]
    assert set(found) == {"tests.tasks.reddish_collector[a]", "tests.tasks.reddish_collector[b/c]"}

    one = client.simulate_get(f"{API}/status/tests.tasks.reddish_collector%5Ba%5D").json["collectors"]
    assert set(one) == {"tests.tasks.reddish_collector[a]"}


def test_the_history_of_all_instances_is_one_list_whose_pages_miss_and_repeat_nothing(client, several):
    red, reddish = several
    for _ in range(3):
        red.run_now()
        reddish.run_now(key="a")
        reddish.run_now(key="b/c")

    seen, following = [], f"{API}/collectors/reddish/runs?limit=4"
    while following:
        path, _, query = following.partition("?")
        page = client.simulate_get(path, query_string=query).json
        seen, following = seen + page["runs"], page["next"]

    ids = [run["id"] for run in seen]
    assert len(seen) == 6
    assert ids == sorted(set(ids), reverse=True)
    assert {run["collector"] for run in seen} == {
        "tests.tasks.reddish_collector[a]",
        "tests.tasks.reddish_collector[b/c]",
    }


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "before=1.5", "before=%00", f"before={2**63}", "limit=٣"]
)
def test_a_page_that_makes_no_sense_is_400(client, several, query):
    answer = client.simulate_get(f"{API}/collectors/red_collector/runs", query_string=query)

    assert answer.status_code == 400
    assert problem(answer)["detail"].startswith(f"?{query.partition('=')[0]}=")


def test_a_page_holds_200_runs_at_most(client, several):
    ledger_db.run(
        "INSERT INTO collectkit.run (collector, fence, attempt, trigger, started_at, outcome, finished_at)"
        " SELECT 'tests.tasks.red_collector', n, 1, 'due', clock_timestamp(), 'OK', clock_timestamp()"
        " FROM generate_series(1, 205) n"
    )

    page = client.simulate_get(f"{API}/collectors/red_collector/runs", query_string="limit=100000").json

    assert len(page["runs"]) == 200
    assert page["next"].endswith("limit=200")


@pytest.mark.parametrize("body", [b'{"token": ""}', b'{"token": "a.b.c"}', '{"token": "ö"}'.encode()])
def test_verify_says_401_to_what_is_no_access_token(client, body):
    answer = client.simulate_post("/auth/token/verify", body=body)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(answer)


def test_verify_says_200_and_nothing_to_an_access_token_and_401_to_a_refresh_token(client):
    tokens = client.simulate_post("/auth/token", json={"username": "ann", "password": PASSWORD}).json

    good = client.simulate_post("/auth/token/verify", json={"token": tokens["access"]})
    refresh = client.simulate_post("/auth/token/verify", json={"token": tokens["refresh"]})

    assert (good.status_code, good.json) == (200, {})
    assert refresh.status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YW5uOng=", "Bearer a b c", "bearer \u00ff", "Token x"])
def test_an_authorization_of_another_kind_is_401(settings, db, header):
    answer = falcon.testing.TestClient(create_app(settings)).simulate_get(
        "/collectors", headers={"Authorization": header}
    )

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="collectkit"')
    problem(answer)


def test_a_password_that_changed_ends_what_the_refresh_token_could(client):
    tokens = client.simulate_post("/auth/token", json={"username": "ann", "password": PASSWORD}).json
    ledger_db.run("UPDATE collectkit.account SET scopes = '{}'")
    fresh = client.simulate_post("/auth/token/refresh", json={"refresh": tokens["refresh"]}).json
    lessened = {"Authorization": f"Bearer {fresh['access']}"}
    assert client.simulate_get(f"{API}/status", headers=lessened).status_code == 403

    ledger_db.run("DELETE FROM collectkit.account")
    accounts.add("ann", PASSWORD)

    assert client.simulate_post("/auth/token/refresh", json={"refresh": tokens["refresh"]}).status_code == 401


def test_what_nobody_thought_of_is_500_without_details_and_with_a_log_line(client, several, caplog):
    ledger_db.run("UPDATE collectkit.collector SET meta_attr = '7'")

    answer = client.simulate_get(f"{API}/status")

    assert answer.status_code == 500
    assert problem(answer)["detail"] == "something went wrong on our side; the service's log says what"
    assert [record.levelname for record in caplog.records if record.name == "service.problems"] == ["ERROR"]
    assert "Bearer" not in caplog.text


def test_a_database_that_is_away_is_503_and_keeps_its_address_to_itself(settings, bearer):
    away = msgspec.structs.replace(settings, database_url="postgresql://role:sesame@127.0.0.1:9/nothing")
    client = falcon.testing.TestClient(create_app(away), headers=bearer)

    status = client.simulate_get(f"{API}/status")
    token = client.simulate_post("/auth/token", json={"username": "ann", "password": PASSWORD})
    ready = client.simulate_get("/collectors/ready")

    assert [answer.status_code for answer in (status, token, ready)] == [503, 503, 503]
    assert status.headers["retry-after"]
    assert [each["check"] for each in problem(ready)["failing"]] == ["database"]
    for answer in (status, token, ready):
        assert "127.0.0.1" not in str(problem(answer))
    assert client.simulate_get("/collectors/healthy").status_code == 200


def test_without_a_broker_the_service_starts_and_ready_says_so(settings, bearer):
    client = falcon.testing.TestClient(create_app(msgspec.structs.replace(settings, broker_url=None)), headers=bearer)

    ready = client.simulate_get("/collectors/ready")

    assert ready.status_code == 503
    assert "COLLECTKIT_BROKER_URL" in problem(ready)["failing"][0]["detail"]
    assert client.simulate_get(f"{API}/status").status_code == 200


def test_the_index_lists_every_endpoint_and_the_reference_describes_each(client, settings):
    index = client.simulate_get("/collectors/").json

    listed = {f"{method} {each['path']}" for each in index["endpoints"] for method in each["methods"]}
    described = set(
        re.findall(r"^\| `([A-Z]+ /\S*)`", (ROOT / "docs/reference/http.md").read_text("utf-8"), re.MULTILINE)
    )
    assert listed == described
    assert all(each["about"] for each in index["endpoints"])
    assert {each["path"] for each in index["endpoints"]} == set(_routes(settings, Tokens(signing_key(settings))))
    assert index["caller"] == {"name": "ann", "scopes": ["read"], "groups": ["blue"]}
