"""An error in the words of the command line: what every client calls `autostart_schedule` was typed `--autostart`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prebuilds.api import InvalidInput, PrebuildsError

RENAMED = {
    "autostart_schedule": "--autostart",
    "claim_parameters": "--claim-param",
    "next_start_at": "--next-start",
    "parameters": "--param",
    "ttl_seconds": "--ttl",
    "wait_timeout_seconds": "--timeout",
}
"""Options that are called otherwise than the fields they set; the others only have dashes."""
MAPPINGS = ("parameters", "claim_parameters")
"""Fields that are typed as `--option key=value`."""


def in_options(argv: Sequence[str], error: PrebuildsError) -> str:
    """What happened and what to do, with the options of the command that *argv* names in place of the fields they set.

    Bad input is told field by field, from the error's details, where the command has an option for one of them.
    """
    name = partial(_option, options=_options(argv))
    message = error.message
    if isinstance(error, InvalidInput) and any(name(field) != field for field in error.details):
        message = "; ".join(f"{name(field)}: {said}" for field, said in error.details.items())
    return error.text(message, name)


def _option(field: str, options: set[str]) -> str:
    """The option that sets *field*, with the key of one in a mapping; the field itself where none does."""
    name, _, part = field.partition(".")
    option = RENAMED.get(name, f"--{name.replace('_', '-')}")
    if option not in options:
        return field
    if not part or part.isdigit():
        return option
    return f"{option} {part}" if name in MAPPINGS else field


def _options(argv: Sequence[str]) -> set[str]:
    from typer.main import get_command

    from prebuilds.cli.app import command_tree

    command = get_command(command_tree(argv))
    for word in argv:  # groups have no options, so a command's name is what comes first
        command = getattr(command, "commands", {}).get(word, command)
    return {option for parameter in command.params for option in parameter.opts}
