"""The how-to on access groups holds, step by step: each of its blocks runs where it says that it stands."""

from __future__ import annotations

import json
import textwrap

from collectkit import group_ids
from collectkit.database import ledger_db
from tests.integration.test_docs import ROOT, blocks, python, python_blocks, write

__all__ = ["python"]

PAGE = "docs/howto/access-groups.md"
TASKS = "collectors/notices/tasks.py"
MIGRATIONS = "collectors/notices/migrations/"
WITHOUT_GROUPS = '''"""Notices of a vendor, before anybody thought of groups."""

import peewee

from collectkit import Model, Run, collector, cron


class Notice(Model):
    number = peewee.IntegerField(primary_key=True)
    text = peewee.TextField()


class Remark(Model):
    notice = peewee.ForeignKeyField(Notice)
    line = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("notice", "line")


@collector(periodic=cron("0 * * * *"), data_models=[Notice, Remark])
def notice_collector(run: Run) -> None:
    with run.checkpoint(updated_until_dt=run.started_at) as batch:
        batch.replace(Notice, [{"number": 1, "text": "first"}, {"number": 2, "text": "second"}])
        batch.replace(Remark, [{"notice": 1, "line": 1}])
'''
LEVELS = '''"""Rows of two levels."""

from collectkit import Run, collector, cron, named_acl
from collectors.notices.tasks import Notice


@collector(periodic=cron("0 * * * *"), data_models=[Notice], acl=["internal", "embargo"])
def levels_collector(run: Run) -> None:
    with run.checkpoint(updated_until_dt=run.started_at) as batch:
'''
MARK = "\n--\n"
COMMANDS = f"""
import sys
from collectkit.cli import app

app(["migrate"], standalone_mode=False)
print({MARK!r}, end="")
for name in sys.argv[1:]:
    app(["run", name, "--json"], standalone_mode=False)
print({MARK!r}, end="")
"""
# Ann may read what is internal, and nothing is any more; then tokens of three accounts, and none.
ASK_SERVICES = """
import falcon.testing, plain, gated
from collectkit.models import Account
from service.tokens import Tokens

tokens = Tokens(gated.signing_key(gated.settings))
public, embargo, nothing = (
    tokens.access(Account(name="ann", groups=groups, scopes=["read"])) for groups in (["public"], ["embargo"], [])
)
client = falcon.testing.TestClient(gated.app)
for name in ("ann", "eve"):
    print(b"".join(plain.app({"REMOTE_USER": name}, lambda *_: None)).decode().split())
for token in (public, embargo, nothing, "none"):
    answer = client.simulate_get("/notices", headers={"Authorization": f"Bearer {token}"})
    print(answer.json if answer.status_code == 200 else answer.status_code)
"""


def test_the_howto_on_access_groups_holds_step_by_step(python, tmp_path):
    def step(files, *names, then=""):
        """Write files, migrate, run collectors, go on; return the counts of the runs, and what was printed after."""
        write(tmp_path, files)
        _, outcomes, after = python("-c", COMMANDS + then, *names).split(MARK)
        done = [json.loads(line) for line in outcomes.splitlines()]
        assert [each["outcome"] for each in done] == ["OK"] * len(names), done
        return [{kind: count for kind, count in each["counts"].items() if count} for each in done], after.splitlines()

    files = blocks(PAGE)
    tasks = files.pop(TASKS)
    make, add, change = (
        files.pop(f"migrations/{name}.py") for name in ("0001_tables", "0002_access_groups", "0003_public")
    )
    (levels,) = [block for block in python_blocks(PAGE) if "embargo = named_acl" in block]

    without, _ = step(files | {TASKS: WITHOUT_GROUPS}, "notices")
    migrations = {f"{MIGRATIONS}0001_tables.py": make, f"{MIGRATIONS}0002_access_groups.py": add}
    added = step({TASKS: tasks, **migrations}, "notices", then="import ask")
    ledger_db.run("DROP TABLE remark, notice, collectkit.migration_collectors_notices")
    anew, _ = step({}, "notices")
    changed = step(
        {
            TASKS: tasks.replace('acl="internal"', 'acl="public"'),
            f"{MIGRATIONS}0003_public.py": change,
            "collectors/levels/tasks.py": LEVELS + textwrap.indent(levels, " " * 8),
        },
        *("notices", "levels"),
        then=ASK_SERVICES,
    )

    assert without == [{"inserted": 3}]
    assert added == ([{"unchanged": 3}], ["['first', 'second']", "0"])
    assert anew == [{"inserted": 3}]
    assert changed[0] == [{"unchanged": 3}, {"inserted": 1}]
    assert changed[1] == ["[]", "[]", "['first', 'second']", "['third']", "[]", "401"]


def test_the_id_that_the_howto_shows_is_that_of_the_public_group(db):
    assert str(group_ids(["public"])[0]) in (ROOT / PAGE).read_text("utf-8")
