"""The command ``collectkit``: each command reads the settings, composes what it needs, and says how it went."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from collectkit import logs
from collectkit.errors import CollectkitError, DatabaseUnavailable, UnknownCollector
from collectkit.output import say, table
from collectkit.settings import Settings, load_settings

app = typer.Typer(
    help="Keep local PostgreSQL tables in step with outside sources.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
users = typer.Typer(help="Accounts for the service's token endpoint.", no_args_is_help=True)
app.add_typer(users, name="user")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on one line, and nothing else.")]
Name = Annotated[str, typer.Argument(help="Any unambiguous part of a collector's name: kev.")]
Processes = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each worker process: runs at the same time.")]

NOT_CLAIMED = 3


def main() -> None:
    """Run the command; a fault of the user's is said in a line, with exit code 1."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except CollectkitError as error:
        sys.exit(f"collectkit: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def up(processes: Processes = 1, threads: Threads = 8) -> None:
    """Run everything on this machine until Ctrl-C: servers where no URL is set, worker, scheduler, service."""
    from collectkit.up import run_up

    settings = _settings()
    raise typer.Exit(run_up(settings, processes=processes, threads=threads))


@app.command()
def worker(processes: Processes = 1, threads: Threads = 8) -> None:
    """Run collectors as they become due: dramatiq, with the settings that suit it here."""
    from collectkit.boot import compose

    compose(_settings())
    _exec(
        f"-m dramatiq collectkit:setup --processes {processes} --threads {threads} --worker-shutdown-timeout 15000",
        # One message a thread, those in work included: fewer would leave threads idle, more would let a busy process
        # sit on nudges that another could serve. An idle one looks ten times a second.
        dramatiq_queue_prefetch=str(threads),
        dramatiq_worker_timeout="100",
    )


@app.command()
def scheduler() -> None:
    """Nudge collectors at their due time; any number of schedulers may run."""
    from collectkit.boot import compose
    from collectkit.drift import warn_of_drift
    from collectkit.scheduler import Scheduler

    discovered = compose(_settings())
    warn_of_drift(discovered)
    Scheduler(discovered.collectors.values()).loop()


@app.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, help="Service processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 8,
) -> None:
    """Serve the status over HTTP, under gunicorn, at COLLECTKIT_BIND."""
    settings = _connect()
    _refuse_unsafe(())
    _exec(
        f"-m gunicorn service:create_app() --bind {settings.bind} --workers {workers} --worker-class gthread"
        f" --threads {threads} --graceful-timeout 5 --no-control-socket"
    )


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring schema, tables and declarations up to date."""
    from collectkit.migrate import migrate as bring_up_to_date

    discovered = _discover(_connect())
    done = bring_up_to_date(discovered)
    say(done, as_json, "\n".join(done) or "nothing to do")
    faults = discovered.faults()
    if len(faults) > len(discovered.import_faults):
        raise CollectkitError("\n".join(faults))
    _tell_import_faults(discovered)


@app.command()
def check(as_json: Json = False) -> None:
    """Find every fault of settings, schedules, dependencies and servers at once."""
    from collectkit.check import check as find_faults

    faults, notes = find_faults()
    say(faults, as_json, "\n".join([*faults, *notes]) if faults or notes else "no fault found")
    raise typer.Exit(1 if faults else 0)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The package's name, as Python writes one: mine.")],
    as_json: Json = False,
) -> None:
    """Write a new collector package, with a test, into ./collectors."""
    from collectkit.scaffold import create

    written = create(name, Path.cwd())
    shown = [str(path.relative_to(Path.cwd())) for path in written]
    say(shown, as_json, "\n".join([*(f"wrote {path}" for path in shown), "it runs with the next `collectkit up`"]))


@app.command("list")
def list_collectors(as_json: Json = False) -> None:
    """List the collectors that the code declares; needs no server."""
    discovered = _discover(_settings())
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
    _tell_import_faults(discovered)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Any unambiguous part of a name; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Show how the collectors stand, as the service does."""
    from collectkit.status import read_status

    settings = _connect()
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


@app.command()
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

    settings = _connect()
    if nudge:
        if dry_run:
            raise typer.BadParameter("a run by a worker follows its settings", param_hint="--dry-run with --nudge")
        _request(settings, name, as_json)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    discovered = _discover(settings)
    _refuse_unsafe(discovered.models())
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


@app.command()
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
    discovered = _discover(_connect())
    names = resolve(name, list(discovered.declarations))
    for each in names:
        set_back(discovered.collectors[family(each)], each, moment, by=_caller(), note=note)
    say(names, as_json, "\n".join(f"rewound {each} to {moment.isoformat()}" for each in names))


@users.command("add")
def user_add(
    name: str,
    groups: Annotated[str, typer.Option(help="Groups, separated by commas; may be empty.")] = "",
    scopes: Annotated[str, typer.Option(help="Scopes, separated by commas: read, operate.")] = "read",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")] = False,
    as_json: Json = False,
) -> None:
    """Add an account; the password is asked for, or read from standard input."""
    from service import accounts

    _connect()
    password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask_password()
    account = accounts.add(name, password, groups=_parts(groups), scopes=_parts(scopes))
    shown = {"name": account.name, "groups": account.groups, "scopes": account.scopes}
    say(shown, as_json, f"added {account.name}, scopes {', '.join(account.scopes) or 'none'}")


def _settings() -> Settings:
    settings = load_settings()
    logs.configure(settings.log_format)
    return settings


def _connect() -> Settings:
    from collectkit.database import connect

    settings = _settings()
    connect(settings)
    return settings


def _refuse_unsafe(models: Iterable[Any]) -> None:
    """Refuse what row security would not hold for; a database that does not answer is another matter."""
    from collectkit.guard import refuse_unsafe

    with suppress(DatabaseUnavailable):
        refuse_unsafe(models)


def _discover(settings: Settings) -> Any:
    from collectkit.discovery import discover

    return discover(settings.collectors)


def _tell_import_faults(discovered: Any) -> None:
    for fault in discovered.import_faults:
        print(f"collectkit: {fault}", file=sys.stderr)


def _resolve_known(settings: Settings, name: str) -> list[str]:
    """Return the full names of the ledger's rows that the name means; say so if only the code knows it."""
    from collectkit.names import resolve
    from collectkit.status import known_names

    try:
        return resolve(name, known_names())
    except UnknownCollector:
        declared = resolve(name, list(_discover(settings).declarations))
        raise CollectkitError(f"collector {declared[0]!r}: it has no row yet: run `collectkit migrate`") from None


def _request(settings: Settings, name: str, as_json: bool) -> None:
    from collectkit.boot import nudge_now
    from collectkit.freshness import request_run

    _resolve_known(settings, name)
    full_name = request_run(name, by=_caller(), note="collectkit run --nudge")
    nudge_now(settings)
    say({"name": full_name, "requested": True}, as_json, f"requested {full_name}")


def _caller() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"


def _exec(arguments: str, **environment: str) -> NoReturn:
    """Become another program: signals reach it directly, and no process waits in between."""
    sys.stdout.flush()
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, *arguments.split()], {**os.environ, **environment}
    )


def _ask_password() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise CollectkitError("the two passwords differ: nothing was stored, try again")
    return password


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
