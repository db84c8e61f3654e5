"""The commands that go on until they are told to stop: everything at once, or one kind of process."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from collectkit.cli.composing import connect, read_settings, refuse_unsafe

Processes = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each worker process: runs at the same time.")]


def up(processes: Processes = 1, threads: Threads = 8) -> None:
    """Run everything on this machine until Ctrl-C: servers where no URL is set, worker, scheduler, service."""
    from collectkit.up import run_up

    settings = read_settings()
    raise typer.Exit(run_up(settings, processes=processes, threads=threads))


def worker(processes: Processes = 1, threads: Threads = 8) -> None:
    """Run collectors as they become due: dramatiq, with the settings that suit it here."""
    from collectkit.boot import compose

    compose(read_settings())
    _exec(
        f"-m dramatiq collectkit:setup --processes {processes} --threads {threads} --worker-shutdown-timeout 15000",
        # One message a thread, those in work included: fewer would leave threads idle, more would let a busy process
        # sit on nudges that another could serve. An idle one looks ten times a second.
        dramatiq_queue_prefetch=str(threads),
        dramatiq_worker_timeout="100",
    )


def scheduler() -> None:
    """Nudge collectors at their due time; any number of schedulers may run."""
    from collectkit.boot import compose
    from collectkit.drift import warn_of_drift
    from collectkit.scheduler import Scheduler

    discovered = compose(read_settings())
    warn_of_drift(discovered)
    Scheduler(discovered.collectors.values()).loop()


def serve(
    workers: Annotated[int, typer.Option(min=1, help="Service processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 8,
) -> None:
    """Serve the status over HTTP, under gunicorn, at COLLECTKIT_BIND."""
    settings = connect()
    refuse_unsafe(())
    _exec(
        f"-m gunicorn service:create_app() --bind {settings.bind} --workers {workers} --worker-class gthread"
        f" --threads {threads} --graceful-timeout 5 --no-control-socket"
    )


def _exec(arguments: str, **environment: str) -> NoReturn:
    """Become another program: signals reach it directly, and no process waits in between."""
    sys.stdout.flush()
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, *arguments.split()], {**os.environ, **environment}
    )
