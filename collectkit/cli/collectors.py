"""The commands on collectors that the ledger has: how they stand, a run now, a rewind."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from collectkit.cli.composing import Json, caller, connect, declared, refuse_unsafe
from collectkit.errors import CollectkitError, UnknownCollector
from collectkit.output import say, table
from collectkit.settings import Settings

Name = Annotated[str, typer.Argument(help="Any unambiguous part of a collector's name: kev.")]

NOT_CLAIMED = 3


def status(
    name: Annotated[str | None, typer.Argument(help="Any unambiguous part of a name; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Show how the collectors stand, as the service does."""
    from collectkit.status import read_status

    settings = connect()
    found = read_status(None if name is None else _resolve_known(settings, name))
    say({"collectors": found}, as_json, None)
    if not as_json:
        table(
            ["collector", "data", "fresh", "updated until", "state", "reason", "last error"],
            [
                [
                    each,
                    row.data,
                    "yes" if row.is_up2date else "no",
                    f"{row.updated_until:%Y-%m-%d %H:%M:%SZ}" if row.updated_until else "-",
                    row.state,
                    row.reason,
                    row.error or "-",
                ]
                for each, row in found.items()
            ],
        )


def run(
    name: Name,
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run/--no-dry-run", help="Roll back every checkpoint.", show_default=False)
    ] = None,
    nudge: Annotated[bool, typer.Option("--nudge", help="Only ask for a run by a worker.")] = False,
    as_json: Json = False,
) -> None:
    """Run a collector now, in this process, and wait. Exit code 0 OK, 1 failed, 2 usage, 3 not claimed."""
    from collectkit.names import family, resolve

    settings = connect()
    if nudge:
        if dry_run:
            raise typer.BadParameter("a run by a worker follows its settings", param_hint="--dry-run with --nudge")
        _request(settings, name, as_json)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    discovered = declared(settings)
    refuse_unsafe(discovered.models())
    try:
        names = resolve(name, list(discovered.declarations))
    except UnknownCollector as error:
        # It may be one of those that could not be imported.
        raise CollectkitError("\n".join([str(error), *discovered.import_faults])) from None
    collector = discovered.collectors[family(names[0])]
    outcomes = [collector.run_now(dry_run, key=key) for each, key in collector.instances().items() if each in names]
    documents = [msgspec.to_builtins(each) for each in outcomes]
    words = [f"{each.name}: {each.outcome} ({each.reason or each.counts})" for each in outcomes]
    say(documents[0] if collector.declared.each is None else {"runs": documents}, as_json, "\n".join(words))
    codes = {"OK": 0, "NOT_CLAIMED": NOT_CLAIMED}
    worst = max((codes.get(each.outcome, 1) for each in outcomes), key=[0, NOT_CLAIMED, 1].index, default=0)
    raise typer.Exit(worst)


def rewind(
    name: Name,
    to: Annotated[str, typer.Option(help="A moment with its zone: 2026-08-01T00:00Z.")],
    note: Annotated[str | None, typer.Option(help="Why; kept in the audit.")] = None,
    as_json: Json = False,
) -> None:
    """Set the watermark back, so that the next run, which is due at once, reads from there again."""
    from collectkit.names import family, resolve
    from collectkit.rewinding import rewind as set_back

    try:
        moment = datetime.fromisoformat(to)
    except ValueError:
        raise typer.BadParameter(f"{to!r} is no moment: 2026-08-01T00:00Z is one", param_hint="--to") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{to!r} has no time zone: add Z or an offset", param_hint="--to")
    discovered = declared(connect())
    names = resolve(name, list(discovered.declarations))
    for each in names:
        set_back(discovered.collectors[family(each)], each, moment, by=caller(), note=note)
    say(names, as_json, "\n".join(f"rewound {each} to {moment.isoformat()}" for each in names))


def _resolve_known(settings: Settings, name: str) -> list[str]:
    """Return the full names of the ledger's rows that the name means; say so if only the code knows it."""
    from collectkit.names import resolve
    from collectkit.status import known_names

    try:
        return resolve(name, known_names())
    except UnknownCollector:
        of_code = resolve(name, list(declared(settings).declarations))
        raise CollectkitError(f"collector {of_code[0]!r}: it has no row yet: run `collectkit migrate`") from None


def _request(settings: Settings, name: str, as_json: bool) -> None:
    from collectkit.boot import nudge_now
    from collectkit.freshness import request_run
    from collectkit.status import read_status

    statuses = read_status(_resolve_known(settings, name))
    disabled = next(((each, row.reason) for each, row in statuses.items() if not row.enabled), None)
    if disabled is not None:  # no worker would ever claim it
        document = {"name": disabled[0], "requested": False, "reason": disabled[1]}
        say(document, as_json, f"{disabled[0]}: NOT_CLAIMED ({disabled[1]})")
        raise typer.Exit(NOT_CLAIMED)
    full_name = request_run(name, by=caller(), note="collectkit run --nudge")
    nudge_now(settings)
    say({"name": full_name, "requested": True}, as_json, f"requested {full_name}")
