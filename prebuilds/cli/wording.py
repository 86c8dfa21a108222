"""A refusal in the words of the command line: what every client calls `autostart_schedule` was typed `--autostart`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prebuilds.api import PrebuildsError

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
IN_ADVICE = re.compile(r"\b((?:with|needs|needs an) )(on_empty|on_timeout|autostart_schedule)\b")
"""Fields that messages name in passing; elsewhere it may be what somebody typed."""


def in_options(argv: Sequence[str], error: PrebuildsError) -> str:
    """What *error* says, with the options of the command that *argv* names in place of the fields they set."""
    options = _options(argv)
    told = IN_ADVICE.sub(lambda found: found[1] + _option(found[2], options), str(error))
    fields = "|".join(re.escape(field) for field in sorted(error.details, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({fields})(?=: )", lambda found: _option(found[1], options), told) if fields else told


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
