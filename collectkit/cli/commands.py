"""The commands, in the order in which help lists them."""

from __future__ import annotations

import typer

from collectkit.cli import accounts, collectors, deployment, processes

app = typer.Typer(
    help="Keep local PostgreSQL tables in step with outside sources.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(processes.up)
app.command("worker")(processes.worker)
app.command("scheduler")(processes.scheduler)
app.command("serve")(processes.serve)
app.command("migrate")(deployment.migrate)
app.command("check")(deployment.check)
app.command("new")(deployment.new)
app.command("list")(deployment.list_collectors)
app.command("status")(collectors.status)
app.command("run")(collectors.run)
app.command("rewind")(collectors.rewind)

users = typer.Typer(help="Accounts for the service's token endpoint.", no_args_is_help=True)
users.command("add")(accounts.add)
app.add_typer(users, name="user")
