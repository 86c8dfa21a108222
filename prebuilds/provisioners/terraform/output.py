"""What Terraform says, by `-json` a line at a time: for a person, and as the errors in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

INPUTS = "prebuilds.auto.tfvars.json"
"""The file that sets the module's variables."""
QUIET = ("version", "refresh_start", "refresh_complete", "outputs", "init_output")


@dataclass(frozen=True)
class Diagnostic:
    """One error, as Terraform tells it by `-json`."""

    text: str
    file: str | None
    """Of the module, when the error is in its own text and no provider's answer."""
    of_variable: bool
    """It is about a value that was given to a variable."""


def read_errors(document: Any) -> list[Diagnostic]:
    """The errors of `validate -json`."""
    found = document.get("diagnostics", []) if isinstance(document, dict) else []
    return [_diagnostic(d) for d in found if d.get("severity") == "error"]


def understood(line: str) -> tuple[str, Diagnostic | None]:
    """A line for a person, and the error in it."""
    if not line.startswith("{"):
        return line, None
    try:
        event = json.loads(line)
    except ValueError:
        return line, None
    if event.get("type") in QUIET:
        return "", None
    found = event.get("diagnostic")
    if not isinstance(found, dict):
        return str(event.get("@message", "")), None
    told = _diagnostic(found)
    is_error = found.get("severity") == "error"
    return f"{'error' if is_error else 'warning'}: {told.text}", told if is_error else None


def _diagnostic(found: dict[str, Any]) -> Diagnostic:
    at = found.get("range") or {}
    code = str((found.get("snippet") or {}).get("code") or "").lstrip()
    file = at.get("filename")
    where = f"{file}:{at.get('start', {}).get('line')}: " if file else ""
    text = ": ".join(" ".join(str(part).split()) for part in (found.get("summary"), found.get("detail")) if part)
    # With an address it is what a provider, or a module that is not there yet, has answered.
    own = file is not None and not found.get("address") and not str(found.get("summary")).startswith("Module not in")
    return Diagnostic(f"{where}{text}", file if own else None, own and (code.startswith("variable") or file == INPUTS))
