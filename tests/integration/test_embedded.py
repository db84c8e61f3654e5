"""The embedded servers by themselves: in odd places, and with a reason when they do not start."""

from __future__ import annotations

import psycopg
import pytest
import redis

from collectkit.embedded import EmbeddedPostgres, EmbeddedValkey, broker_url, database_url
from collectkit.errors import EmbeddedServerError


def test_a_state_directory_may_have_any_name(collectkit_state_dir):
    odd = collectkit_state_dir / "a b, 100%20? #ü'\""
    postgres, valkey = EmbeddedPostgres(odd, settings={"fsync": "off"}), EmbeddedValkey(odd)

    try:
        with psycopg.connect(postgres.start()) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("collectkit",)
        with redis.Redis.from_url(valkey.start()) as client:
            assert client.ping()
    finally:
        valkey.stop()
        postgres.stop()


def test_the_reason_of_a_failure_is_the_servers_own_and_not_what_it_ended_because_of_it(collectkit_state_dir):
    server = EmbeddedPostgres(collectkit_state_dir / "small", settings={"max_connections": "many"})

    with pytest.raises(
        EmbeddedServerError, match=r'did not start: .*FATAL:  invalid value for parameter "max_connections"'
    ):
        server.start()


def test_a_full_disk_is_the_reason_that_is_told(tmp_path):
    server = EmbeddedPostgres(tmp_path)
    server.home.mkdir()
    server.log.write_text(
        '2026-11-24 20:16:19 UTC [26724] FATAL:  could not write to file "x": No space left on device\n'
        "2026-11-24 20:16:24 UTC [27141] FATAL:  the database system is in recovery mode\n"
        'child process exited with exit code 1\ninitdb: removing contents of data directory "x"\n'
    )

    assert "did not start: 2026-11-24 20:16:19 UTC [26724] FATAL:  could not write" in str(server.failure())
    assert "recovery mode" not in str(server.failure())


@pytest.mark.parametrize(
    ("ask", "words"),
    [(database_url, "no database: set COLLECTKIT_DATABASE_URL"), (broker_url, "no broker: set COLLECTKIT_BROKER_URL")],
)
def test_the_server_that_is_missing_is_the_one_that_is_named(tmp_path, ask, words):
    with pytest.raises(EmbeddedServerError, match=words):
        ask(tmp_path)
