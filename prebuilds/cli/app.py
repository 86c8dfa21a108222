"""The tree of commands. A command's modules are imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

COMMANDS: Mapping[str, str] = {
    "dev": "dev",
    "worker": "worker",
    "serve": "serve",
    "page": "page",
    "init": "system",
    "migrate": "migrating",
    "apply": "applying",
    "start": "system",
    "stop": "system",
    "status": "status",
    "pause": "system",
    "resume": "system",
    "reconcile": "system",
    "claim": "claims",
    "release": "claims",
    "logs": "logs",
    "inventory": "inventory",
    "restored": "restored",
    "replay": "replay",
    "snapshot": "system",
    "size": "size",
    "doctor": "doctor",
}
"""Command -> module of this package that has the function of the same name; in the order of the help."""
GROUPS: Mapping[str, tuple[str, str]] = {
    "presets": ("presets", "app"),
    "templates": ("templates", "app"),
    "rollouts": ("rollouts", "app"),
    "drills": ("drills", "app"),
    "workspaces": ("workspaces", "app"),
    "limits": ("people", "limits"),
    "members": ("people", "members"),
    "users": ("people", "users"),
    "tokens": ("tokens", "app"),
    "keys": ("keys", "app"),
    "jobs": ("jobs", "app"),
    "explain": ("explain", "app"),
    "provisioners": ("provisioners", "app"),
    "schema": ("schema", "app"),
    "bench": ("bench", "app"),
}
"""Group of commands -> module of this package, and the variable there that holds the group."""

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The base of every usage error; typer gives it no public name."""


def is_missing_command(error: Exception) -> bool:
    """True if a usage error means that only a group was named; its message is then the group's help."""
    return type(error).__name__ == "NoArgsIsHelpError"  # typer gives it no public name either


def show_version(requested: bool) -> None:
    """Print the version and exit, if *requested*."""
    if requested:
        from importlib import metadata

        from prebuilds.cli import output

        version = metadata.version("prebuilds")
        output.document({"version": version}, human=f"prebuilds {version}")
        raise typer.Exit


def prebuilds(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def command_tree(words: Sequence[str] = ()) -> typer.Typer:
    """Build the tree of commands that a command line needs.

    Args:
        words: The command line. If it begins with a command or a group, the tree has only that one, because importing
            and inspecting all of them takes 0.1 s of CPU. Otherwise, as for `--help` or a misspelt word, it has all.
    """
    tree = typer.Typer(
        name="prebuilds",
        help="Prebuilt workspaces, held ready and handed out in milliseconds. "
        "Every command takes --json, and -o wide|json|yaml|name. "
        "With PREBUILDS_URL and PREBUILDS_TOKEN set, commands ask that server over HTTP (`prebuilds serve`), and need "
        "neither Temporal nor the database.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    tree.callback()(prebuilds)
    first = words[0] if words else None
    everything = first not in COMMANDS and first not in GROUPS and first != "--version"
    for name, module in COMMANDS.items():
        if everything or name == first:
            tree.command()(getattr(import_module(f"prebuilds.cli.{module}"), name))
    for name, (module, attribute) in GROUPS.items():
        if everything or name == first:
            tree.add_typer(getattr(import_module(f"prebuilds.cli.{module}"), attribute), name=name)
    return tree


def app(words: Sequence[str], **options: Any) -> Any:
    """Run one command line. *options* are those of typer's app; returns what that returns."""
    return command_tree(words)(words, **options)
