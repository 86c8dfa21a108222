"""The command line's tree. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

from typing import Any

import typer

from prebuilds.cli import (
    bench,
    claims,
    dev,
    doctor,
    explain,
    inventory,
    jobs,
    logs,
    people,
    presets,
    provisioners,
    restored,
    system,
    templates,
    workspaces,
)

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The base of every usage error; typer gives it no public name."""

app = typer.Typer(
    name="prebuilds",
    help="Prebuilt workspaces, held ready and handed out in milliseconds. Every command takes --json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    dev.dev,
    system.init,
    system.migrate,
    system.apply,
    system.start,
    system.stop,
    system.status,
    system.pause,
    system.resume,
    system.reconcile,
    claims.claim,
    claims.release,
    logs.logs,
    inventory.inventory,
    restored.restored,
    system.snapshot,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(presets.app, name="presets")
app.add_typer(templates.app, name="templates")
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(people.members, name="members")
app.add_typer(people.users, name="users")
app.add_typer(jobs.app, name="jobs")
app.add_typer(explain.app, name="explain")
app.add_typer(provisioners.app, name="provisioners")
app.add_typer(bench.app, name="bench")
