"""Placeholders in a template's texts, such as `{owner}`: finding them, filling them, and refusing dangerous ones."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

from prebuilds.provisioners.base import InvalidSource

UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
PLACEHOLDERS = ("port", "workspace_id", "name", "owner", "owner_slug", "organization", "template", "preset", "folder")
PARAMETER = "param."
SHELLS = frozenset({"sh", "ash", "bash", "dash", "fish", "ksh", "mksh", "zsh"})


def placeholders_of(text: str) -> list[str]:
    """Return the names of the placeholders in *text*, in order.

    Raises:
        ValueError: A brace is not closed, a name does not exist, or a placeholder has a format.
    """
    names = []
    for _, name, spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if spec or conversion:
            raise ValueError(f"{{{name}}} takes no format")
        if name not in PLACEHOLDERS and not (name.startswith(PARAMETER) and len(name) > len(PARAMETER)):
            known = ", ".join(f"{{{p}}}" for p in PLACEHOLDERS)
            raise ValueError(
                f"{{{name}}} is no placeholder; known are {known} and {{param.NAME}}; write {{{{ for a brace"
            )
        names.append(name)
    return names


def fill(text: str, values: Mapping[str, str], field: str) -> str:
    """Replace each placeholder by its value. Braces in values are not replaced again.

    Args:
        field: The template's field that has the text, for the error.
    Raises:
        InvalidSource: A placeholder has no value.
    """
    parts = []
    for literal, name, _, _ in string.Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            if name not in values:
                raise InvalidSource.field(field, f"{{{name}}} has no value", "give the preset that parameter")
            parts.append(values[name])
    return "".join(parts)


def refuse_owner_in_script(words: Sequence[str]) -> None:
    """Refuse a command whose shell script contains {owner}: an owner's name may have any visible character.

    Raises:
        ValueError: A shell's script in *words* contains {owner}.
    """
    for n, word in enumerate(words):
        if PurePosixPath(word).name not in SHELLS:
            continue
        rest = list(words[n + 1 :])
        options = list(takewhile(lambda option: option.startswith("-"), rest))
        runs = any("c" in option and not option.startswith("--") for option in options)
        if runs and any("owner" in placeholders_of(script) for script in rest[len(options) :][:1]):
            raise ValueError(
                "{owner} must not stand in a shell's script, which would run what is in the name; pass it as a word "
                "behind the script, by env, or use {owner_slug}"
            )


def parse_memory(value: Any) -> Any:
    """Return bytes for text such as `512m` or `2g`; anything else is returned unchanged, for pydantic to check.

    Raises:
        ValueError: The text is no amount of memory.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
    if found is None:
        raise ValueError("must be bytes, or a number with a unit, such as 512m or 2g")
    return int(found[1]) * UNITS[found[2]]
