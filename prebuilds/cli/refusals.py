"""Words errors for the command line: the field `autostart_schedule` of a request becomes the option `--autostart`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prebuilds.api import InvalidInput, PrebuildsError

RENAMED = {
    "autostart_schedule": "--autostart",
    "claim_parameters": "--claim-param",
    "lease_seconds": "--lease",
    "next_start_at": "--next-start",
    "parameters": "--param",
    "ttl_seconds": "--ttl",
    "wait_timeout_seconds": "--timeout",
}
"""Field -> option, where the names differ. Every other option is the field's name with dashes."""
MAPPINGS = ("parameters", "claim_parameters")
"""Fields that are set by `--option key=value`."""


def in_options(argv: Sequence[str], error: PrebuildsError) -> str:
    """Return the error's text with the options of the command in *argv* instead of the request's fields.

    For bad input the text is built from the error's details, field by field, if the command has an option for any of
    them.
    """
    name = partial(_option, options=_options(argv))
    message = error.message
    if isinstance(error, InvalidInput) and any(name(field) != field for field in error.details):
        message = "; ".join(f"{name(field)}: {fault}" for field, fault in error.details.items())
    return error.text(message, name)


def _option(field: str, options: set[str]) -> str:
    """Return the option that sets *field*, with the key for a field of a mapping; *field* itself if no option does."""
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
    for word in argv:  # groups have no options, so the first words are the names of groups and the command
        command = getattr(command, "commands", {}).get(word, command)
    return {option for parameter in command.params for option in parameter.opts}
