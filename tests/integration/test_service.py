"""The service over WSGI against a real PostgreSQL: who gets in, and what it says."""

from __future__ import annotations

import base64
import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import falcon.testing
import jwt
import msgspec
import pytest

from collectkit import collector, cron
from collectkit.database import ledger_db
from service import accounts, create_app
from service.keys import KeyRefused, signing_key

PASSWORD = "correct horse battery"
STATUS = "/collectors/api/v1/status"


@pytest.fixture
def settings(db, broker_url):
    return msgspec.structs.replace(db.settings, broker_url=broker_url)


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def tokens(client):
    accounts.add("ann", PASSWORD, scopes=["read"], groups=["blue"])
    answer = client.simulate_post("/auth/token", json={"username": "ann", "password": PASSWORD})
    assert answer.status_code == 200
    return answer.json


@pytest.fixture
def one(db):
    @collector(periodic=cron("0 * * * *"), name="tests.one")
    def one(run):
        run.store(updated_until_dt=run.started_at, meta_attr={"version": 7, "_private": 1})
        return "stored"

    db.enrol(one)
    return one


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def get(client, path, token):
    return client.simulate_get(path, headers=bearer(token))


def test_the_status_says_how_every_collector_stands(client, tokens, one):
    one.run_now()

    answer = get(client, STATUS, tokens["access"])

    found = answer.json["collectors"]["tests.one"]
    wanted = {"data": "COMPLETE", "is_complete": True, "is_up2date": True, "error": None, "state": "READY"}
    assert {key: found[key] for key in wanted} == wanted
    assert {"depends_on", "data_models", "updated_until", "enabled"} <= set(found)
    assert found["cursor"] == {"version": 7}
    assert found["last_run"]["result"] == "stored"


def test_one_collector_is_found_by_part_of_its_name(client, tokens, one):
    assert set(get(client, f"{STATUS}/one", tokens["access"]).json["collectors"]) == {"tests.one"}
    assert get(client, f"{STATUS}/nobody", tokens["access"]).status_code == 404


def test_the_history_is_paged_newest_first(client, tokens, one):
    for _ in range(3):
        one.run_now()

    first = get(client, "/collectors/api/v1/collectors/one/runs?limit=2", tokens["access"]).json
    path, _, query = first["next"].partition("?")
    second = client.simulate_get(path, query_string=query, headers=bearer(tokens["access"])).json

    ids = [run["id"] for run in first["runs"] + second["runs"]]
    assert len(ids) == 3
    assert ids == sorted(ids, reverse=True)
    assert second["next"] is None


@pytest.mark.parametrize("path", ["/collectors", STATUS, f"{STATUS}/one", "/collectors/api/v1/collectors/one/runs"])
def test_without_a_token_there_is_401_and_nothing_else(client, path):
    answer = client.simulate_get(path)

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")


def forged(settings, good):
    key = signing_key(settings)
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    confused = base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').rstrip(b"=").decode()
    seal = hmac.digest(key, f"{confused}.{body}".encode(), "sha256")
    return {
        "none": jwt.encode(claims, None, algorithm="none"),
        "another algorithm": jwt.encode(claims, key + b"0" * 64, algorithm="HS512"),
        "said to be RS256": f"{confused}.{body}.{base64.urlsafe_b64encode(seal).rstrip(b'=').decode()}",
        "expired": jwt.encode(claims | {"exp": 1}, key, algorithm="HS256"),
        "not yet": jwt.encode(claims | {"nbf": claims["exp"] + 99}, key, algorithm="HS256"),
        "audience": jwt.encode(claims | {"aud": "others"}, key, algorithm="HS256"),
        "issuer": jwt.encode(claims | {"iss": "others"}, key, algorithm="HS256"),
        "no expiry": jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, algorithm="HS256"),
        "another key": jwt.encode(claims, os.urandom(32), algorithm="HS256"),
        "tampered": f"{head}.{body[:-2]}{'AA' if body[-2:] != 'AA' else 'BB'}.{signature}",
        "empty": "",
        "garbage": "a.b.c",
    }


def test_no_forged_expired_or_foreign_token_gets_in(client, tokens, settings):
    refused = {
        what: get(client, STATUS, token).status_code for what, token in forged(settings, tokens["access"]).items()
    }

    assert set(refused.values()) == {401}, refused
    assert get(client, STATUS, tokens["refresh"]).status_code == 401
    assert get(client, STATUS, tokens["access"]).status_code == 200


def test_a_refresh_token_gives_access_until_the_account_is_gone(client, tokens):
    fresh = client.simulate_post("/auth/token/refresh", json={"refresh": tokens["refresh"]})
    assert get(client, STATUS, fresh.json["access"]).status_code == 200

    ledger_db.run("DELETE FROM collectkit.account")
    assert client.simulate_post("/auth/token/refresh", json={"refresh": tokens["refresh"]}).status_code == 401


def test_an_account_without_the_scope_is_refused(client):
    accounts.add("bob", PASSWORD, scopes=[])
    access = client.simulate_post("/auth/token", json={"username": "bob", "password": PASSWORD}).json["access"]

    assert get(client, STATUS, access).status_code == 403
    assert get(client, "/collectors", access).status_code == 200


def test_guessing_is_slowed_down_and_tells_no_names(client, tokens):
    wrong = {"username": "ann", "password": "wrong password"}
    unknown = {"username": "nobody", "password": "wrong password"}

    first, other = client.simulate_post("/auth/token", json=wrong), client.simulate_post("/auth/token", json=unknown)
    assert (first.status_code, first.json) == (other.status_code, other.json)

    codes = [client.simulate_post("/auth/token", json=wrong).status_code for _ in range(10)]
    assert codes[-1] == 429


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"{", "application/json", 400),
        (b'{"username": 1, "password": "x"}', "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b'{"more": ' + b"[" * 10_000, "application/json", 400),
        (b'"' + b"x" * 20_000 + b'"', "application/json", 413),
        (b"username=ann", "application/x-www-form-urlencoded", 415),
    ],
)
def test_a_bad_body_is_a_problem_in_words(client, body, content_type, code):
    answer = client.simulate_post("/auth/token", body=body, headers={"Content-Type": content_type})

    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]


def test_ready_names_the_collectors_that_nobody_runs(settings, one):
    # A server that has just started gives everybody the limit's time, so the limit is short here.
    impatient = msgspec.structs.replace(settings, ready_after=timedelta(milliseconds=10))
    client = falcon.testing.TestClient(create_app(impatient))
    assert client.simulate_get("/collectors/healthy").status_code == 200

    ledger_db.run("UPDATE collectkit.collector SET next_due_at = clock_timestamp() - interval '1 day'")
    late = client.simulate_get("/collectors/ready")
    one()

    assert late.status_code == 503
    assert late.json["failing"][0]["collectors"] == ["tests.one"]
    assert client.simulate_get("/collectors/ready").status_code == 200


def test_a_dead_broker_is_named_by_ready(settings):
    away = msgspec.structs.replace(settings, broker_url="redis://127.0.0.1:9/0")

    answer = falcon.testing.TestClient(create_app(away)).simulate_get("/collectors/ready")

    assert answer.status_code == 503
    assert [each["check"] for each in answer.json["failing"]] == ["broker"]


def test_a_database_without_our_tables_is_503_and_says_nothing_of_itself(client, tokens):
    ledger_db.run("DROP SCHEMA collectkit CASCADE")

    answer = get(client, STATUS, tokens["access"])

    assert answer.status_code == 503
    assert "collectkit migrate" in answer.json["detail"]
    assert "relation" not in answer.text


def test_processes_that_start_at_once_agree_on_one_private_key(settings):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(settings), range(32)))

    path = settings.state_dir / "jwt.key"
    assert len(keys) == 1
    assert path.stat().st_mode & 0o777 == 0o600

    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="others may read"):
        signing_key(settings)


def test_a_password_is_stored_as_an_argon2_hash_only(db):
    accounts.add("ann", PASSWORD)

    ((stored,),) = ledger_db.run("SELECT password FROM collectkit.account")
    assert stored.startswith("$argon2id$")
    assert accounts.verify("ann", PASSWORD) is not None
    assert accounts.verify("ann", PASSWORD + "!") is None
