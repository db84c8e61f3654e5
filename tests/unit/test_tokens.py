"""Tokens and the key that signs them, without a server."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from collectkit.models import Account
from collectkit.settings import Settings
from service.keys import FILE, SHORTEST, KeyRefused, signing_key
from service.throttle import Throttle
from service.tokens import LEEWAY, LIFETIMES, TokenRefused, Tokens

KEY = b"k" * SHORTEST
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

ANN = Account(name="ann", password="$argon2id$first", groups=["blue", "green"], scopes=["read"])


@pytest.fixture
def tokens():
    return Tokens(KEY)


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def signed(claims, **headers):
    # Below jwt.encode, which refuses some claims itself.
    return jwt.api_jws.encode(json.dumps(claims).encode(), KEY, algorithm="HS256", headers=headers or None)


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_an_access_token_says_who_calls_and_what_for(tokens):
    caller = tokens.caller(tokens.access(ANN))

    assert (caller.name, caller.scopes, caller.groups) == ("ann", {"read"}, {"blue", "green"})


def test_each_token_has_the_registered_claims_and_an_id_of_its_own(tokens):
    first, second = claims_of(tokens.access(ANN)), claims_of(tokens.access(ANN))

    assert {"sub", "aud", "iss", "iat", "nbf", "exp", "jti", "typ"} <= set(first)
    assert first["jti"] != second["jti"]
    assert jwt.get_unverified_header(tokens.access(ANN))["alg"] == "HS256"


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_a_token_lasts_its_lifetime_and_the_leeway_and_no_longer(tokens, kind):
    read = {"access": tokens.caller, "refresh": tokens.holder}[kind]
    with time_machine.travel(NOON, tick=False) as clock:
        token = getattr(tokens, kind)(ANN)

        clock.shift(LIFETIMES[kind] + LEEWAY - timedelta(seconds=1))
        assert read(token).name == "ann"
        clock.shift(1)

        with pytest.raises(TokenRefused, match="expired"):
            read(token)


def test_a_token_of_a_host_whose_clock_is_far_ahead_is_refused(tokens):
    with time_machine.travel(NOON + LEEWAY + timedelta(seconds=1), tick=False):
        token = tokens.access(ANN)

    with time_machine.travel(NOON, tick=False), pytest.raises(TokenRefused):
        tokens.caller(token)


def test_neither_kind_of_token_passes_for_the_other(tokens):
    with pytest.raises(TokenRefused, match="no access token"):
        tokens.caller(tokens.refresh(ANN))
    with pytest.raises(TokenRefused, match="no refresh token"):
        tokens.holder(tokens.access(ANN))


@pytest.mark.parametrize("missing", ["sub", "aud", "iss", "iat", "nbf", "exp", "jti", "typ", "scopes", "groups"])
def test_a_token_that_lacks_a_claim_is_refused(tokens, missing):
    claims = claims_of(tokens.access(ANN))
    assert tokens.caller(signed(claims)).name == "ann"

    del claims[missing]

    with pytest.raises(TokenRefused):
        tokens.caller(signed(claims))


@pytest.mark.parametrize(
    "odd",
    [
        {"aud": "elsewhere"},
        {"aud": ["collectkit", "elsewhere"]},
        {"iss": "elsewhere"},
        {"iss": ["collectkit"]},
        {"typ": "refresh"},
        {"typ": ["access"]},
        {"sub": 7},
        {"scopes": "read"},
        {"scopes": [7]},
        {"groups": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": {}},
        {"iat": []},
        {"jti": 1},
    ],
    ids=str,
)
def test_a_claim_of_another_value_or_shape_is_refused(tokens, odd):
    claims = claims_of(tokens.access(ANN)) | odd

    with pytest.raises(TokenRefused):
        tokens.caller(signed(claims))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_no_other_algorithm_is_read_even_under_the_same_key(tokens, algorithm):
    # One key that is long enough for all of them, so that nothing but the algorithm differs.
    tokens, key = Tokens(KEY * 2), KEY * 2
    token = jwt.encode(claims_of(tokens.access(ANN)), None if algorithm == "none" else key, algorithm=algorithm)

    with pytest.raises(TokenRefused):
        tokens.caller(token)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "HS512", "none", "hs256", None, ["HS256"], {}])
def test_the_header_does_not_choose_how_the_signature_is_read(tokens, algorithm):
    _, body, seal = tokens.access(ANN).split(".")

    with pytest.raises(TokenRefused):
        tokens.caller(f"{part({'alg': algorithm, 'typ': 'JWT'})}.{body}.{seal}")


def test_a_token_with_an_extension_that_we_do_not_know_is_refused(tokens):
    with pytest.raises(TokenRefused):
        tokens.caller(signed(claims_of(tokens.access(ANN)), crit=["b64"], b64=False))


def test_a_changed_body_and_another_key_are_refused(tokens):
    head, body, seal = tokens.access(ANN).split(".")
    grown = part(claims_of(f"{head}.{body}.{seal}") | {"scopes": ["read", "operate"]})

    with pytest.raises(TokenRefused):
        tokens.caller(f"{head}.{grown}.{seal}")
    with pytest.raises(TokenRefused):
        tokens.caller(f"{head}.{body}.")
    with pytest.raises(TokenRefused):
        Tokens(b"l" * SHORTEST).caller(f"{head}.{body}.{seal}")


@given(st.text() | st.from_regex(r"[\w-]{0,20}\.[\w-]{0,20}\.[\w-]{0,20}"))
def test_whatever_is_sent_as_a_token_is_refused_and_breaks_nothing(text):
    with pytest.raises(TokenRefused):
        Tokens(KEY).caller(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(["sub", "aud", "iss", "iat", "nbf", "exp", "jti", "typ", "scopes", "groups"]), json_values)
def test_a_signed_token_with_any_claim_is_read_or_refused(name, value):
    tokens = Tokens(KEY)
    claims = claims_of(tokens.access(ANN)) | {name: value}

    try:
        caller = tokens.caller(signed(claims))
    except TokenRefused:
        return

    assert isinstance(caller.name, str)
    assert all(isinstance(scope, str) for scope in caller.scopes)


def test_a_refresh_token_holds_until_the_password_changes_or_the_account_is_made_anew(tokens):
    holder = tokens.holder(tokens.refresh(ANN))

    assert tokens.is_current(holder, Account(name="ann", password="$argon2id$first", groups=[], scopes=["operate"]))
    assert not tokens.is_current(holder, Account(name="ann", password="$argon2id$second", groups=[], scopes=["read"]))
    assert not tokens.is_current(holder, Account(name="bob", password="$argon2id$first", groups=[], scopes=["read"]))
    assert "argon2" not in str(holder)


def test_a_key_from_the_settings_leaves_no_file(tmp_path):
    assert signing_key(Settings(jwt_key="s" * SHORTEST, state_dir=tmp_path)) == b"s" * SHORTEST

    assert list(tmp_path.iterdir()) == []


def test_the_key_file_is_made_once_private_and_nothing_is_left_beside_it(tmp_path):
    settings = Settings(state_dir=tmp_path / "made" / "too")

    first, second = signing_key(settings), signing_key(settings)

    assert first == second
    assert len(first) >= SHORTEST
    assert [(path.name, path.stat().st_mode & 0o777) for path in settings.state_dir.iterdir()] == [(FILE, 0o600)]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    signing_key(Settings(state_dir=tmp_path))
    (tmp_path / FILE).chmod(mode)

    with pytest.raises(KeyRefused, match="others may read"):
        signing_key(Settings(state_dir=tmp_path))


def test_a_key_that_is_too_short_is_refused_wherever_it_comes_from(tmp_path):
    with pytest.raises(KeyRefused, match=r"COLLECTKIT_JWT_KEY.* 32 bytes"):
        signing_key(Settings(jwt_key="short", state_dir=tmp_path))

    (tmp_path / FILE).touch(0o600)
    with pytest.raises(KeyRefused, match=r"jwt\.key.* 32 bytes.* not 0"):
        signing_key(Settings(state_dir=tmp_path))


def test_a_key_file_that_cannot_be_read_or_made_is_said_in_a_line(tmp_path):
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyRefused, match="set COLLECTKIT_JWT_KEY") as refused:
        signing_key(Settings(state_dir=tmp_path))
    assert "\n" not in str(refused.value)

    (tmp_path / "file").touch()
    with pytest.raises(KeyRefused, match="cannot be read or made"):
        signing_key(Settings(state_dir=tmp_path / "file"))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throttle(clock):
    return Throttle(limit=2, period=60, capacity=3, clock=clock)


def test_after_the_limit_a_key_waits_until_its_period_is_over(throttle, clock):
    assert [throttle.wait("ann"), throttle.wait("ann")] == [0, 0]

    clock.now = 59.0
    assert throttle.wait("ann") == pytest.approx(1)
    assert throttle.wait("bob") == 0

    clock.now = 60.0
    assert throttle.wait("ann") == 0


def test_to_ask_while_one_waits_does_not_lengthen_the_wait(throttle, clock):
    for _ in range(5):
        throttle.wait("ann")

    clock.now = 60.0
    assert [throttle.wait("ann"), throttle.wait("ann")] == [0, 0]


def test_a_right_password_takes_the_count_back(throttle):
    throttle.wait("ann")
    throttle.forget("ann")

    assert [throttle.wait("ann"), throttle.wait("ann")] == [0, 0]
    assert throttle.wait("ann") > 0


def test_the_memory_is_bounded_and_drops_the_oldest(throttle):
    for name in ["ann", "ann", "bob", "cid"]:
        throttle.wait(name)
    assert throttle.wait("ann") > 0

    throttle.wait("dan")

    assert throttle.wait("ann") == 0
