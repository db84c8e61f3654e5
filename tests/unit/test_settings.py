"""Settings: read once, all faults at once, secrets never shown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from collectkit.errors import SettingsError
from collectkit.settings import CollectorSettings, load_settings


def test_an_empty_environment_gives_the_defaults():
    settings = load_settings({})

    assert settings.database_url is None
    assert settings.state_dir == Path.cwd() / "var"
    assert settings.collectors == ("collectors",)
    assert settings.lease_ttl == timedelta(seconds=30)
    assert settings.dry_run is None


def test_every_kind_of_value_is_read():
    settings = load_settings(
        {
            "COLLECTKIT_DATABASE_URL": "postgresql://role:word@host/db",
            "COLLECTKIT_COLLECTORS": "one, two.three ,",
            "COLLECTKIT_DRY_RUN": "yes",
            "COLLECTKIT_LEASE_TTL": "2.5",
            "COLLECTKIT_LOG_FORMAT": "json",
        }
    )

    assert settings.collectors == ("one", "two.three")
    assert settings.dry_run is True
    assert settings.lease_ttl == timedelta(seconds=2.5)
    assert settings.log_format == "json"


def test_an_empty_variable_counts_as_unset():
    assert load_settings({"COLLECTKIT_BIND": " "}).bind == "127.0.0.1:8000"


def test_all_faults_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        load_settings({"COLLECTKIT_LEASE_TTL": "soon", "COLLECTKIT_DRY_RUN": "maybe", "COLLECTKIT_LOG_FORMAT": "xml"})

    assert [fault.partition(" cannot be used: ")[2] for fault in caught.value.faults] == [
        "true or false is wanted",
        "a number of seconds is wanted",
        "console or json is wanted",
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COLLECTKIT_DATABASE_URL", "mysql://host/db"),
        ("COLLECTKIT_DATABASE_URL", "postgresql://[::1"),
        ("COLLECTKIT_DATABASE_URL", "postgresql://host:http/db"),
        ("COLLECTKIT_DATABASE_URL", "postgresql://one:5432,two:70000/db"),
        ("COLLECTKIT_BROKER_URL", "amqp://host"),
        ("COLLECTKIT_BROKER_URL", "redis://[::1]:port/0"),
        ("COLLECTKIT_BIND", "8000"),
        ("COLLECTKIT_BIND", "host:99999"),
        ("COLLECTKIT_JWT_KEY", "short"),
        ("COLLECTKIT_LEASE_TTL", "0.1"),
        ("COLLECTKIT_LEASE_TTL", "nan"),
        ("COLLECTKIT_READY_AFTER", "-1"),
        ("COLLECTKIT_COLLECTORS", ","),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_name(variable, value):
    with pytest.raises(SettingsError, match=variable):
        load_settings({variable: value})


def test_no_secret_is_shown_by_a_repr_or_a_fault():
    settings = load_settings(
        {"COLLECTKIT_DATABASE_URL": "postgresql://role:hidden@host/db", "COLLECTKIT_JWT_KEY": "hidden" * 8}
    )
    assert "hidden" not in repr(settings)

    with pytest.raises(SettingsError) as caught:
        load_settings({"COLLECTKIT_DATABASE_URL": "mysql://role:hidden@host/db", "COLLECTKIT_JWT_KEY": "hidden"})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("password", ["hid@den", "hid:den@", "hidden%zz", "hidden%", "hid@den:den"])
def test_a_password_that_is_not_encoded_is_refused_without_being_shown(password):
    with pytest.raises(SettingsError, match=r"^COLLECTKIT_DATABASE_URL: .* write an? . of the password as %") as caught:
        load_settings({"COLLECTKIT_DATABASE_URL": f"postgresql://role:{password}@host:5432/db"})

    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://role:p%40ss%25@one:5432,[::1]:5433/db?sslmode=require",
        "postgresql:///db?host=%2Frun%2Fpostgresql",
        "postgresql://[fe80::1]/db",
    ],
)
def test_what_postgresql_takes_for_an_address_is_taken(url):
    assert load_settings({"COLLECTKIT_DATABASE_URL": url}).database_url == url


def test_a_collectors_own_settings_are_typed_and_have_its_prefix():
    class Mine(CollectorSettings, frozen=True, kw_only=True):
        url: str = "https://example.org"
        pages: int = 1

    mine = Mine.load("MINE_COLLECTOR", {"MINE_COLLECTOR_ENABLED": "false", "MINE_COLLECTOR_PAGES": "7"})
    assert (mine.enabled, mine.pages, mine.url) == (False, 7, "https://example.org")

    with pytest.raises(SettingsError, match="MINE_COLLECTOR_PAGES: 'many' cannot be used"):
        Mine.load("MINE_COLLECTOR", {"MINE_COLLECTOR_PAGES": "many"})


def test_variables_of_the_wrong_kind_and_of_the_wrong_value_are_named_at_once():
    environ = {"COLLECTKIT_LEASE_TTL": "soon", "COLLECTKIT_BIND": "nowhere", "COLLECTKIT_READY_AFTER": "0"}

    with pytest.raises(SettingsError) as caught:
        load_settings(environ)

    assert len(caught.value.faults) == 3
