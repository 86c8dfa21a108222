"""The YAML that `apply` reads, as a whole: what is wrong with it, each fault by its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from prebuilds.api import InvalidInput
from prebuilds.payloads import Payload, plain_message
from prebuilds.templates.checks import check_entries
from prebuilds.templates.entries import OrganizationEntry
from prebuilds.templates.yaml_text import Path, ReadYaml, load_yaml

FAULTS_SHOWN_MAX = 50
"""How many faults the message names; the details have all of them."""


class TemplateFile(Payload):
    """A whole template file."""

    organizations: list[OrganizationEntry]


def parse_template_file(text: str, name: str | None = None, *, sent: bool = False) -> TemplateFile:
    """Read and check a whole template file. Each source is checked by its own driver. Nothing is written.

    Args:
        name: The file's name for messages; None leaves it out.
        sent: Whether somebody has sent the text to a server. Then its sources may name no files of this host, and no
            program is run to check them.
    Raises:
        InvalidInput: The file is not valid. The message names one fault per line, with file, line and path. The details
            map the path of each wrong value, such as
            `organizations[acme].templates[python].presets[small].expire_after`, to its fault; the path is `file` when
            the text is not YAML.
    """
    try:
        read = load_yaml(text)
        data, problems = read.data, dict(read.problems)
        if data is None:
            raise InvalidInput.field("organizations", "is required, and the file is empty", "begin with organizations:")
        if not isinstance(data, dict):
            raise InvalidInput.field("file", "must be a mapping with the key organizations")
    except InvalidInput as error:
        if name is None:
            raise
        raise InvalidInput(f"{name}: {error.message}", error.details, remedy=error.advice) from error
    checked = check_entries(data, sent=sent)
    problems |= checked.problems
    file = None
    try:
        file = TemplateFile.model_validate(data)
    except ValidationError as error:
        problems |= _messages(error)
    if problems or file is None:
        raise _not_valid(name, read, problems)
    for (_, organization, _, template), kept in checked.kept.items():
        file.organizations[int(organization)].templates[int(template)].set_kept(kept)
    return file


def _not_valid(name: str | None, read: ReadYaml, problems: Mapping[Path, str]) -> InvalidInput:
    paths = ReadablePaths(read.data)
    lines = {path: read.line_of(path) for path in problems}
    details: dict[str, str] = {}
    faults: list[str] = []
    for path in sorted(problems, key=lambda path: lines[path]):
        readable = paths.of(path)
        details[readable] = problems[path]
        place = f"line {lines[path]}" if name is None else f"{name}:{lines[path]}"
        faults.append(f"{place}: {readable}: {problems[path]}")
    more = [f"and {len(faults) - FAULTS_SHOWN_MAX} more"] if len(faults) > FAULTS_SHOWN_MAX else []
    return InvalidInput("the template file is not valid:\n" + "\n".join(faults[:FAULTS_SHOWN_MAX] + more), details)


def _messages(error: ValidationError) -> dict[Path, str]:
    messages: dict[Path, str] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = tuple(part for part in item["loc"] if part != "[key]")
        messages[path] = plain_message(item["type"], item["msg"])
    return messages


class ReadablePaths:
    """Writes paths with the names of list entries in place of their indexes, where a name is unique in its list."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._names: dict[int, tuple[list[Any], Counter[str]]] = {}
        """The names of each list's entries, by the list's identity, so that a long list is read once and not once for
        each path."""

    def of(self, path: Path) -> str:
        """Return the readable form of *path*, such as `organizations[acme].members[0]`."""
        data, text = self._data, ""
        for part in path:
            if isinstance(data, list) and isinstance(part, int):
                names, counted = self._of_entries(data)
                name = names[part]
                text += f"[{name}]" if isinstance(name, str) and counted[name] == 1 else f"[{part}]"
                data = data[part]
            else:
                text += f".{part}" if text else str(part)
                data = data.get(part) if isinstance(data, dict) else None
        return text

    def _of_entries(self, data: list[Any]) -> tuple[list[Any], Counter[str]]:
        if (found := self._names.get(id(data))) is None:
            names = [entry.get("name") if isinstance(entry, dict) else None for entry in data]
            found = self._names[id(data)] = names, Counter(name for name in names if isinstance(name, str))
        return found
