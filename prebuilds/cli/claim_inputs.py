"""A claim's parameters, typed or from a file or stdin. No error repeats a value: it may be a secret."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from prebuilds.api import InvalidInput

BYTES_MAX = 1_000_000
"""Temporal takes no larger request than 2 MB."""
FIELD = "claim_parameters"
FILE_FIELD = "param_file"
OTHER_FILE = "name a file that can be read"
STDIN = "-"


def pairs(given: Sequence[str] | None, field: str) -> dict[str, str]:
    """Read `k=v` texts.

    Raises:
        InvalidInput: One is not written so.
    """
    found = {}
    for number, item in enumerate(given or [], 1):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidInput.field(field, f"number {number} must be written k=v")
        found[key] = value
    return found


def claim_parameters(given: Sequence[str] | None, file: str | None) -> dict[str, str]:
    """Claim parameters from options and from a file.

    Args:
        given: `k=v`; `k=@FILE` and `k=@-` read a file or stdin, and `k=@@v` stands for a value that begins with `@`.
        file: A YAML or JSON mapping of names to texts; `-` reads stdin.
    Raises:
        InvalidInput: One cannot be read, is given twice, or stdin is to be read twice.
    """
    typed = pairs(given, FIELD)
    from_stdin = [name for name, value in typed.items() if value == f"@{STDIN}"]
    if len(from_stdin) + (file == STDIN) > 1:
        raise InvalidInput.field(FIELD, "stdin can be read once only", "give the others by files")
    found = {name: _value(name, value) for name, value in typed.items()}
    if file is None:
        return found
    read = _mapping(_read(file, FILE_FIELD))
    for name in found:
        if name in read:
            raise InvalidInput.field(f"{FIELD}.{name}", "is given in --param-file, too", "leave one out")
    return read | found


def _value(name: str, typed: str) -> str:
    if not typed.startswith("@"):
        return typed
    if typed.startswith("@@"):
        return typed[1:]
    text = _read(typed[1:], f"{FIELD}.{name}", name, f"{OTHER_FILE}; a value that begins with @ is written @@")
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line  # what `echo` writes has a line end, and a key of many lines needs its own


def _read(path: str, field: str, prompt: str | None = None, advice: str = OTHER_FILE) -> str:
    try:
        if path != STDIN:
            with Path(path).open("rb") as file:
                data = file.read(BYTES_MAX + 1)
        elif prompt is not None and sys.stdin.isatty():
            from getpass import getpass

            return getpass(f"{prompt}: ")
        else:
            data = sys.stdin.buffer.read(BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:  # the path is not repeated: it may be a secret that begins with @
        raise InvalidInput.field(field, f"the file cannot be read ({error.strerror})", advice) from None
    except UnicodeDecodeError:
        raise InvalidInput.field(field, "must be UTF-8 text", "encode other bytes, such as by base64") from None
    if len(data) > BYTES_MAX:
        raise InvalidInput.field(field, f"is longer than {BYTES_MAX} bytes", "have the workspace fetch it instead")
    return text


def _mapping(text: str) -> dict[str, str]:
    import yaml

    shape = "must be a mapping of names to texts, in YAML or JSON"
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:  # its own message may quote the file
        at = error.problem_mark
        where = f" (line {at.line + 1}, column {at.column + 1})" if at is not None else ""
        raise InvalidInput.field(FILE_FIELD, f"{shape}, and cannot be read{where}") from None
    except yaml.YAMLError:
        raise InvalidInput.field(FILE_FIELD, f"{shape}, and has a character that YAML does not allow") from None
    if not isinstance(node, yaml.MappingNode):
        raise InvalidInput.field(FILE_FIELD, shape)
    found: dict[str, str] = {}
    for key, value in node.value:  # scalars as they are written: 3.10 stays 3.10
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise InvalidInput.field(FILE_FIELD, f"{shape}, and line {line} has something else")
        if key.value in found:
            raise InvalidInput.field(FILE_FIELD, f"line {line} repeats a name", "leave one out")
        found[key.value] = value.value
    return found
