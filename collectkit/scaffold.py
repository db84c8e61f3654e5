"""Writing a new collector package that runs as it stands, for its author to fill."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path
from string import Template

from collectkit.errors import CollectkitError

_FILES = {
    "__init__.py": '"""The collector $name."""\n',
    "models.py": '''\
"""The table that the collector $name keeps."""

import peewee

from collectkit import DateTimeTZField, Model


class $Model(Model):
    """One record of the source; ``gone_at`` is null while the source lists it."""

    id = peewee.TextField(primary_key=True)
    title = peewee.TextField()
    gone_at = DateTimeTZField(null=True)
''',
    "source.py": '''\
"""What the source says, as rows for the table; no database here."""

from collections.abc import Iterator

from collectkit import Run


def records(run: Run) -> Iterator[dict[str, str]]:
    """Yield one row a record. Replace this by your source; ``collectkit.fetch`` downloads documents."""
    run.log.info("this source is an example, see %s", __name__)
    for number in range(1, 4):
        yield {"id": str(number), "title": f"record {number} of $name"}
''',
    "tasks.py": '''\
"""The collector $name: joins the source and the table."""

from collectkit import Run, collector, cron
from collectors.$name.models import $Model
from collectors.$name.source import records


@collector(periodic=cron("*/5 * * * *"), data_models=[$Model])
def ${name}_collector(run: Run) -> str:
    """Keep the table ``$table`` in step with the source."""
    with run.checkpoint(updated_until_dt=run.started_at) as batch:
        counts = batch.replace($Model, records(run))
    return str(counts)
''',
    "test_tasks.py": '''\
"""The collector $name against a real PostgreSQL: run it with ``python -m pytest collectors/$name``."""

from collectkit.testing import TestDatabase
from collectors.$name.models import $Model
from collectors.$name.tasks import ${name}_collector


def test_a_second_run_changes_nothing(collectkit_db: TestDatabase) -> None:
    collectkit_db.enrol(${name}_collector)

    first = ${name}_collector.run_now()
    second = ${name}_collector.run_now()

    assert (first.outcome, second.outcome) == ("OK", "OK")
    assert first.counts.inserted == $Model.select().count() > 0
    assert not second.counts.changed
''',
}


def create(name: str, directory: Path) -> list[Path]:
    """Write the package ``collectors/NAME`` below ``directory`` and return its files; discovery needs nothing else.

    Raises:
        CollectkitError: the name is no Python name, or the package is there already; nothing was written.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower() or name.startswith("_"):
        message = (
            f"{name!r} cannot be a package's name: use small letters, digits and underscores, beginning with a letter, "
            "and no word of Python"
        )
        raise CollectkitError(message)
    package = directory / "collectors" / name
    if package.exists():
        message = f"{package} is there already: nothing was written"
        raise CollectkitError(message)
    if (directory / "collectors" / "__init__.py").exists():
        message = f"{directory / 'collectors' / '__init__.py'} hides the shipped collectors: remove it, then try again"
        raise CollectkitError(message)
    elsewhere = find_spec(f"collectors.{name}")
    if elsewhere is not None:
        message = f"the collector {name} is there already: choose another name, for yours would take its place"
        raise CollectkitError(message)
    package.mkdir(parents=True)
    words = {"name": name, "Model": "".join(part.capitalize() for part in name.split("_")), "table": name}
    written = []
    for file, text in _FILES.items():
        path = package / file
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(path)
    return written
