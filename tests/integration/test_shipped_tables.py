"""The tables of the shipped collectors: open to the group public alone, and shown by the service."""

from __future__ import annotations

import pytest

from collectkit import AclModel
from collectkit.discovery import discover
from collectkit.served import find_served, is_served, write_served

SHIPPED = {"cvelist", "epss", "exploitdb", "kev", "metasploit", "nvd", "osv", "priority"}


@pytest.fixture(scope="module")
def declared():
    return [each.declared for each in discover(["collectors"]).collectors.values() if each.declared.data_models]


def test_each_shipped_table_is_served_and_belongs_to_a_collector_of_the_group_public(declared):
    models = {model: each.acl for each in declared for model in each.data_models}

    assert {model._meta.table_name for model in models} == SHIPPED
    assert all(issubclass(model, AclModel) and is_served(model) and acl == "public" for model, acl in models.items())


def test_a_served_table_names_the_key_that_its_rows_are_asked_by(db, declared):
    models = {model: "collectors" for each in declared for model in each.data_models}

    write_served(models, unsafe=set())

    assert {name: find_served(name).key for name in SHIPPED} == {
        **{name: ["cve_id"] for name in ("cvelist", "epss", "kev", "nvd", "priority")},
        "exploitdb": ["id"],
        "metasploit": ["fullname"],
        "osv": ["id"],
    }
