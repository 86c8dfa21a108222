"""The command line's tree. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer

from prebuilds.cli import (
    applying,
    bench,
    claims,
    dev,
    doctor,
    explain,
    inventory,
    jobs,
    logs,
    output,
    people,
    presets,
    provisioners,
    restored,
    schema,
    system,
    templates,
    worker,
    workspaces,
)

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The base of every usage error; typer gives it no public name."""


def is_missing_command(error: Exception) -> bool:
    """Whether a usage error says that only a group was named; its message is then the group's help."""
    return type(error).__name__ == "NoArgsIsHelpError"  # typer gives it no public name either


app = typer.Typer(
    name="prebuilds",
    help="Prebuilt workspaces, held ready and handed out in milliseconds. "
    "Every command takes --json, and -o wide|json|yaml|name.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(asked: bool) -> None:
    if asked:
        found = metadata.version("prebuilds")
        output.document({"version": found}, human=f"prebuilds {found}")
        raise typer.Exit


@app.callback()
def prebuilds(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Options before the command."""


for command in (
    dev.dev,
    worker.worker,
    system.init,
    system.migrate,
    applying.apply,
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
app.add_typer(schema.app, name="schema")
app.add_typer(bench.app, name="bench")
