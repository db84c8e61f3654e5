"""The commands of who writes or deploys collectors: what is declared, whether it is right, and bringing it in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from collectkit.cli.composing import Json, connect, declared, read_settings, tell_import_faults
from collectkit.errors import CollectkitError
from collectkit.output import say, table


def migrate(as_json: Json = False) -> None:
    """Bring schema, tables and declarations up to date."""
    from collectkit.migrate import migrate as bring_up_to_date

    discovered = declared(connect())
    if discovered.import_faults and not discovered.collectors:
        # Rather a mistake in the settings than one collector among others that is out of order.
        raise CollectkitError("\n".join([*discovered.import_faults, "no collector can be imported: nothing was done"]))
    done = bring_up_to_date(discovered)
    say(done, as_json, "\n".join(done) or "nothing to do")
    faults = discovered.faults()
    if len(faults) > len(discovered.import_faults):
        raise CollectkitError("\n".join(faults))
    tell_import_faults(discovered)


def check(as_json: Json = False) -> None:
    """Find every fault of settings, schedules, dependencies and servers at once."""
    from collectkit.check import check as find_faults

    faults, notes = find_faults()
    say(faults, as_json, "\n".join([*faults, *notes]) if faults or notes else "no fault found")
    raise typer.Exit(1 if faults else 0)


def new(
    name: Annotated[str, typer.Argument(help="The package's name, as Python writes one: mine.")],
    as_json: Json = False,
) -> None:
    """Write a new collector package, with a test, into ./collectors."""
    from collectkit.scaffold import create

    written = create(name, Path.cwd())
    shown = [str(path.relative_to(Path.cwd())) for path in written]
    say(shown, as_json, "\n".join([*(f"wrote {path}" for path in shown), "it runs with the next `collectkit up`"]))


def list_collectors(as_json: Json = False) -> None:
    """List the collectors that the code declares; needs no server."""
    discovered = declared(read_settings())
    rows = [msgspec.to_builtins(each) for each in discovered.declarations.values()]
    say(rows, as_json, None)
    if not as_json:
        table(
            ["collector", "schedule", "zone", "enabled", "depends on", "after"],
            [
                [row["name"], row["schedule"] or "-", row["tz"], "yes" if row["enabled"] else "no"]
                + [", ".join(row[key]) or "-" for key in ("depends_on", "after")]
                for row in rows
            ],
        )
    tell_import_faults(discovered)
    raise typer.Exit(1 if discovered.import_faults else 0)
