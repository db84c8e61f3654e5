from __future__ import annotations

import json

import pytest

from collectkit import Counts, acl_scope
from collectors.metasploit import tasks
from collectors.metasploit.models import Metasploit
from collectors.metasploit.tasks import metasploit_collector
from tests.feeds import modules
from tests.mirror import mirrored


@pytest.fixture
def mirror(db, monkeypatch):
    with mirrored(db, monkeypatch, tasks, metasploit_collector) as mirror:
        yield mirror


def test_each_file_replaces_the_last_and_what_it_no_longer_lists_is_gone(mirror):
    first = mirror.load(modules(range(100)))
    second = mirror.load(modules(range(3, 120), other=range(10, 18)))
    third = mirror.load(modules(range(120), other=range(10, 18)))

    assert first == Counts(inserted=100)
    assert second == Counts(inserted=20, updated=8, unchanged=89, removed=3)
    assert third == Counts(updated=3, unchanged=117)
    assert mirror.query("SELECT count(*) FROM metasploit WHERE gone_at IS NOT NULL") == [(0,)]


def test_a_file_s_time_is_no_change(mirror):
    mirror.load(modules(range(100)))

    assert mirror.load(modules(range(100), touched=range(100), other=[5])) == Counts(updated=1, unchanged=99)


def test_values_arrive_typed_and_ids_that_are_none_stay_references(mirror):
    mirror.load(modules(range(11)))

    with acl_scope(["public"]):
        row = Metasploit.get_by_id("auxiliary/windows/http/made_up_10")
    assert (row.name, row.type, row.rank, str(row.disclosure_date)) == (
        "Made-up Server 10",
        "auxiliary",
        500,
        "2020-01-11",
    )
    assert row.aliases == ["auxiliary/windows/old_10"]
    assert row.author == ["nobody <nobody@modules.example>", "No. 10"]
    assert row.refs == ["CVE-2020-10010", "CVE-2222-xxxx", "URL-https://modules.example/10"]
    assert row.cve_ids == ["CVE-2020-10010"]


def test_modules_are_found_by_a_cve_id(mirror):
    mirror.load(modules(range(11)))

    assert mirror.query("SELECT name FROM metasploit WHERE cve_ids @> '{CVE-2020-10004}'") == [("Made-up Server 4",)]


def test_of_two_modules_of_one_name_the_last_is_taken(mirror):
    twice = json.loads(modules(range(20)))
    twice["another key"] = {**next(iter(twice.values())), "name": "the last"}

    counts = mirror.load(json.dumps(twice).encode())

    assert counts == Counts(inserted=20, rejected=1)
    assert mirror.query("SELECT count(*) FROM metasploit WHERE name = 'the last'") == [(1,)]


def test_a_list_of_modules_without_names_is_refused(mirror):
    mirror.publish(b"[]")

    assert "Expected `object`, got `array`" in mirror.run().reason


def test_a_poison_record_without_its_name_is_known_by_its_key(mirror):
    mirror.load(modules(range(100)))

    counts = mirror.load(modules(range(100)).replace(b'"fullname"', b'"no name"', 1))

    assert counts == Counts(unchanged=99, rejected=1)
    assert mirror.query("SELECT count(*) FROM metasploit WHERE gone_at IS NOT NULL") == [(0,)]
