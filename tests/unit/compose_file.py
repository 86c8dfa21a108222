"""docker-compose.yml as Compose reads it: with variables put in, and merge keys resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")


def required() -> set[str]:
    """Return the variables without which Compose ends with an error."""
    return {name for name, kind, _ in VARIABLE.findall(TEXT) if kind == "?"}


def resolved(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with these variables.

    Raises:
        KeyError: A required one is missing.
    """

    def put_in(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: put_in(value) for key, value in node.items()}
        if isinstance(node, list):
            return [put_in(value) for value in node]
        if not isinstance(node, str):
            return node
        return VARIABLE.sub(lambda found: value(*found.groups()), node).replace("$$", "$")

    def value(name: str, kind: str | None, default: str | None) -> str:
        return environment[name] if kind == "?" else environment.get(name) or default or ""

    found: dict[str, Any] = put_in(yaml.safe_load(TEXT))
    return found
