"""Reads a claim's parameters from options, files or stdin. No error repeats a value, since it may be a secret."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from prebuilds.api import InvalidInput

BYTES_MAX = 1_000_000
"""Maximum size of one parameter or file. Temporal accepts requests of up to 2 MB."""
FIELD = "claim_parameters"
FILE_FIELD = "param_file"
OTHER_FILE = "name a file that can be read"
STDIN = "-"


def pairs(options: Sequence[str] | None, field: str) -> dict[str, str]:
    """Parse options of the form `k=v`.

    Raises:
        InvalidInput: An option has another form. The error names *field* and the option's number, not its text.
    """
    parsed = {}
    for number, item in enumerate(options or [], 1):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidInput.field(field, f"number {number} must be written k=v")
        parsed[key] = value
    return parsed


def claim_parameters(options: Sequence[str] | None, file: str | None) -> dict[str, str]:
    """Read claim parameters from options and from a file.

    Args:
        options: `k=v`; `k=@FILE` and `k=@-` read a file or stdin, and `k=@@v` means a value that begins with `@`.
        file: Path of a YAML or JSON mapping of names to texts; `-` reads stdin, None reads no file.
    Raises:
        InvalidInput: A parameter cannot be read or is given twice, or stdin would be read twice.
    """
    typed = pairs(options, FIELD)
    from_stdin = [name for name, value in typed.items() if value == f"@{STDIN}"]
    if len(from_stdin) + (file == STDIN) > 1:
        raise InvalidInput.field(FIELD, "stdin can be read only once", "give the others as files")
    values = {name: _read_value(name, value) for name, value in typed.items()}
    if file is None:
        return values
    from_file = _parse_mapping(_read(file, FILE_FIELD))
    for name in values:
        if name in from_file:
            raise InvalidInput.field(f"{FIELD}.{name}", "is also given in --param-file", "leave one out")
    return from_file | values


def _read_value(name: str, typed: str) -> str:
    if not typed.startswith("@"):
        return typed
    if typed.startswith("@@"):
        return typed[1:]
    text = _read(typed[1:], f"{FIELD}.{name}", name, f"{OTHER_FILE}; a value that begins with @ is written @@")
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line  # drop the line end that `echo` writes; a key of several lines keeps its own


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
    except OSError as error:  # the path is not printed: it may be a secret that begins with @
        raise InvalidInput.field(field, f"the file cannot be read ({error.strerror})", advice) from None
    except UnicodeDecodeError:
        raise InvalidInput.field(field, "must be UTF-8 text", "encode other bytes, such as by base64") from None
    if len(data) > BYTES_MAX:
        raise InvalidInput.field(field, f"is longer than {BYTES_MAX} bytes", "have the workspace fetch it instead")
    return text


def _parse_mapping(text: str) -> dict[str, str]:
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
    parsed: dict[str, str] = {}
    for key, value in node.value:  # scalars keep their text: 3.10 stays 3.10
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise InvalidInput.field(FILE_FIELD, f"{shape}, and line {line} has something else")
        if key.value in parsed:
            raise InvalidInput.field(FILE_FIELD, f"line {line} repeats a name", "leave one out")
        parsed[key.value] = value.value
    return parsed
