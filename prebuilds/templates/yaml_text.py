"""Reads a template file's YAML without the surprises of YAML 1.1.

A key that is given twice is an error; in YAML 1.1 the last one silently wins. `12:30` and dates stay text. A preset's
parameters are kept as they are written, since a provisioner gets text: `3.10` must not become `3.1`, nor `on` `true`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from yaml.reader import ReaderError

from prebuilds.api import InvalidInput

FILE_LENGTH_MAX = 1_000_000
"""The limit allows thousands of templates, and refuses a wrong file at once."""

VALUES_MAX = 500_000
"""How many values a file may have with its aliases expanded. A file of that length without aliases has fewer."""

Path: TypeAlias = tuple[str | int, ...]

_TEXT = "tag:yaml.org,2002:str"
_TIME = "tag:yaml.org,2002:timestamp"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PLAIN = (*_NUMBERS, _TIME, "tag:yaml.org,2002:bool")
_PARAMETERS = ("organizations", "templates", "presets", "parameters")


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        return _TEXT if tag == _TIME or (tag in _NUMBERS and ":" in value) else tag


@dataclass(frozen=True)
class ReadYaml:
    """One YAML document."""

    data: Any
    """The document's plain values; None for an empty document."""
    problems: Mapping[Path, str]
    """Each key that is given twice: its path, and what is wrong."""
    root: yaml.Node | None

    def line_of(self, path: Path) -> int:
        """Return the line of the value at *path*, from 1; without such a value, that of the nearest enclosing one."""
        node, line = self.root, 1
        for part in path:
            found = None
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = node.value[part]
                line = found.start_mark.line + 1
            elif isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if isinstance(key, yaml.ScalarNode) and key.value == part:
                        found, line = value, key.start_mark.line + 1
            if found is None:
                break
            node = found
        return line


def load_yaml(text: str) -> ReadYaml:
    """Read one YAML document.

    Raises:
        InvalidInput: The text is not YAML, is too long, or has aliases that stand for too many values. The message has
            line and column where they are known.
    """
    if len(text) > FILE_LENGTH_MAX:
        raise InvalidInput.field("file", f"is longer than {FILE_LENGTH_MAX} characters", "apply it in several files")
    problems: dict[Path, str] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return ReadYaml(None, problems, None)
        _count_values(node, {})
        _examine(node, (), problems, set())
        return ReadYaml(loader.construct_document(node), problems, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise InvalidInput.field("file", f"is not valid YAML{where}: {what}") from error
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        message = f"is not valid YAML at line {line}, column {column}: this character is not allowed"
        raise InvalidInput.field("file", message) from error
    except RecursionError as error:
        raise InvalidInput.field("file", "is nested too deeply") from error
    except (ValueError, KeyError, AttributeError) as error:  # thousands of digits, or a tag such as !!bool on a word
        raise InvalidInput.field("file", f"has a value that cannot be read: {error}") from error


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values that a node stands for. The values of an alias count each time that it is used.

    A few hundred characters of aliases or of merge keys (`<<`) can stand for more values than fit into memory. A node
    that contains itself is counted once here, and refused by the later checks.

    Raises:
        InvalidInput: There are more than VALUES_MAX values. The message names the line.
    """
    if (known := counted.get(id(node))) is not None:
        return known
    counted[id(node)] = 0  # while it is being counted
    values = 1
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                values += _count_values(part, counted)
                if values > VALUES_MAX:
                    message = f"has aliases or merge keys that stand for more than {VALUES_MAX} values"
                    raise InvalidInput.field("file", f"{message}, at line {node.start_mark.line + 1}", "write them out")
    counted[id(node)] = values
    return values


def _examine(node: yaml.Node, path: Path, problems: dict[Path, str], seen: set[int]) -> None:
    """Record keys that are given twice, and mark parameters as text, before the nodes are turned into values."""
    if id(node) in seen:  # an alias, perhaps of a node that contains it
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _examine(item, (*path, index), problems, seen)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        parameters = tuple(part for part in path if isinstance(part, str)) == _PARAMETERS
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_lines:
                message = f"is given twice, at lines {first_lines[key.value]} and {line}; keep one"
                problems[(*path, key.value)] = message
            first_lines.setdefault(key.value, line)
            for scalar in (key, value) if parameters else ():
                if isinstance(scalar, yaml.ScalarNode) and scalar.tag in _PLAIN:
                    scalar.tag = _TEXT
            _examine(value, (*path, key.value), problems, seen)
