"""Texts of a template with placeholders such as `{owner}`: which there are, and how they are filled."""

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
    """The names in braces, in order.

    Raises:
        ValueError: A brace that is not closed, a name that does not exist, or a format.
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
    """Put *values* in place of the placeholders: whole, once, and never through a shell."""
    parts = []
    for literal, name, _, _ in string.Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            if name not in values:
                raise InvalidSource(
                    f"{field}: {{{name}}} has no value; give the preset that parameter",
                    {field: f"{{{name}}} has no value"},
                )
            parts.append(values[name])
    return "".join(parts)


def refuse_owner_in_script(words: Sequence[str]) -> None:
    """Owners may have any visible character in their names, so no name stands in what a shell runs.

    Raises:
        ValueError: A shell's script in *words* has {owner}.
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
    """Bytes, from a number or from text such as `512m` or `2g`."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
    if found is None:
        raise ValueError("must be bytes, or a number with a unit, such as 512m or 2g")
    return int(found[1]) * UNITS[found[2]]
