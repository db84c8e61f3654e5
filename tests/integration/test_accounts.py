"""Accounts in a real PostgreSQL: what is stored, who is let in, and what is refused."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher

from collectkit.database import database, ledger_db
from service import accounts
from service.accounts import AccountRefused, AccountTaken

PASSWORD = "correct horse battery"


def stored():
    rows = ledger_db.run("SELECT name, password, groups, scopes FROM collectkit.account ORDER BY name")
    return {name: (password, groups, scopes) for name, password, groups, scopes in rows}


def test_an_account_is_kept_with_a_hash_of_its_password_only(db):
    returned = accounts.add("ann", PASSWORD, groups=["green", "blue", "blue"], scopes=["read", "operate"])

    password, groups, scopes = stored()["ann"]
    assert password.startswith("$argon2id$")
    assert PASSWORD not in password
    assert (groups, scopes) == (["blue", "green"], ["operate", "read"])
    assert (returned.name, returned.groups, returned.scopes) == ("ann", groups, scopes)


def test_the_same_password_is_stored_differently_for_each(db):
    accounts.add("ann", PASSWORD)
    accounts.add("bob", PASSWORD)

    assert stored()["ann"][0] != stored()["bob"][0]


def test_the_right_password_gives_the_account_and_any_other_none(db):
    accounts.add("ann", PASSWORD, groups=["blue"])

    assert accounts.verify("ann", PASSWORD).groups == ["blue"]
    for name, password in [("ann", PASSWORD.upper()), ("ANN", PASSWORD), ("bob", PASSWORD), ("ann", PASSWORD + " ")]:
        assert accounts.verify(name, password) is None


@pytest.mark.parametrize("password", ["", "a\0b", "x" * 1025, "\ud800" * 8])
def test_a_name_or_password_that_nobody_can_have_is_simply_wrong(db, password):
    accounts.add("ann", PASSWORD)

    assert accounts.verify("ann", password) is None
    assert accounts.verify("an\0n", PASSWORD) is None
    assert accounts.verify("a" * 151, PASSWORD) is None
    assert accounts.verify("", PASSWORD) is None


@pytest.mark.parametrize("password", ["12345678", "密码也可以是汉字的", "\0" * 8, " " * 8, "x" * 1024])
def test_a_password_may_hold_any_character(db, password):
    accounts.add("ann", password)

    assert accounts.verify("ann", password) is not None


@pytest.mark.parametrize(
    ("name", "password", "more", "words"),
    [
        ("", PASSWORD, {}, "1 to 150"),
        (" ann", PASSWORD, {}, "blank"),
        ("a\nb", PASSWORD, {}, "printable"),
        ("a\0b", PASSWORD, {}, "printable"),
        ("a\u202eb", PASSWORD, {}, "printable"),
        ("a" * 151, PASSWORD, {}, "1 to 150"),
        ("ann", "1234567", {}, "8 to 1024"),
        ("ann", "x" * 1025, {}, "8 to 1024"),
        ("ann", "\ud800" * 8, {}, "surrogate"),
        ("ann", PASSWORD, {"groups": ["blue", ""]}, "a group"),
        ("ann", PASSWORD, {"scopes": ["read", "rule"]}, "unknown scope rule"),
    ],
)
def test_an_account_that_breaks_a_rule_is_refused_in_a_line(db, name, password, more, words):
    with pytest.raises(AccountRefused, match=words) as refused:
        accounts.add(name, password, **more)

    assert "\n" not in str(refused.value)
    assert password not in str(refused.value)
    assert stored() == {}


def test_a_taken_name_is_refused_and_its_account_stays(db):
    accounts.add("ann", PASSWORD, scopes=["read"])
    before = stored()

    with pytest.raises(AccountTaken, match="'ann' exists already"):
        accounts.add("ann", "another password", scopes=["operate"])

    assert stored() == before


def test_of_many_who_ask_for_a_name_at_once_one_gets_it(db):
    def try_to_add(number):
        try:
            return accounts.add("ann", f"{PASSWORD} {number}").name
        except AccountTaken:
            return None
        finally:
            ledger_db.let_go()

    with ThreadPoolExecutor(4) as pool:
        won = [number for number, name in enumerate(pool.map(try_to_add, range(4))) if name]

    assert len(won) == 1
    assert accounts.verify("ann", f"{PASSWORD} {won[0]}") is not None


def test_a_hash_of_weaker_parameters_is_replaced_when_its_password_is_shown(db):
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    accounts.add("ann", PASSWORD)
    ledger_db.run("UPDATE collectkit.account SET password = %(weak)s", {"weak": weak})

    assert accounts.verify("ann", "wrong password") is None
    assert stored()["ann"][0] == weak

    account = accounts.verify("ann", PASSWORD)
    assert stored()["ann"][0] == account.password != weak
    assert accounts.verify("ann", PASSWORD).password == account.password


def test_a_stored_hash_that_is_none_lets_nobody_in(db):
    accounts.add("ann", PASSWORD)
    ledger_db.run("UPDATE collectkit.account SET password = '!'")

    assert accounts.verify("ann", PASSWORD) is None


def test_an_unknown_name_takes_as_long_as_a_wrong_password(db):
    def seconds(name):
        began = time.perf_counter()
        assert accounts.verify(name, "wrong password") is None
        return time.perf_counter() - began

    accounts.add("ann", PASSWORD)
    seconds("ann")

    # In turn, so that a busy machine slows both.
    known, unknown = zip(*((seconds("ann"), seconds("nobody")) for _ in range(5)), strict=True)

    # A look-up alone takes a hundredth of it.
    assert statistics.median(unknown) > statistics.median(known) / 3


def test_accounts_need_no_connection_of_the_models(db):
    accounts.add("ann", PASSWORD)
    accounts.verify("ann", PASSWORD)

    assert database.is_closed()


def test_without_a_terminal_a_password_is_not_asked_for(db, tmp_path):
    environ = os.environ | {"COLLECTKIT_DATABASE_URL": db.settings.database_url}
    done = subprocess.run(
        [sys.executable, "-m", "collectkit", "user", "add", "ann"],
        env=environ,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "collectkit: there is no terminal to ask for a password: give it by --password-stdin\n"
