"""Terraform's `-json` output, line by line: texts for people, and the errors in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

INPUTS = "prebuilds.tfvars.json"
"""The file that sets the module's variables. Terraform reads it because an option names it (`-var-file`), so its values
win over those of every file that Terraform finds by itself, such as `*.auto.tfvars`."""
PLAN = "prebuilds.plan"
QUIET = ("version", "refresh_start", "refresh_complete", "outputs", "init_output")


@dataclass(frozen=True)
class Diagnostic:
    """One error in Terraform's `-json` output."""

    text: str
    file: str | None
    """The module's file with the error; None: the error comes from elsewhere, such as a provider."""
    of_variable: bool
    """True: the error is about the value of a variable."""


def read_errors(document: Any) -> list[Diagnostic]:
    """Return the errors in the document that `validate -json` prints."""
    found = document.get("diagnostics", []) if isinstance(document, dict) else []
    return [_diagnostic(d) for d in found if d.get("severity") == "error"]


def parse_line(line: str) -> tuple[str, Diagnostic | None]:
    """Return a line's text for people, empty when it says nothing of use, and the error in it, None for none."""
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
    diagnostic = _diagnostic(found)
    is_error = found.get("severity") == "error"
    return f"{'error' if is_error else 'warning'}: {diagnostic.text}", diagnostic if is_error else None


def _diagnostic(found: dict[str, Any]) -> Diagnostic:
    at = found.get("range") or {}
    code = str((found.get("snippet") or {}).get("code") or "").lstrip()
    file = at.get("filename")
    where = f"{file}:{at.get('start', {}).get('line')}: " if file else ""
    text = ": ".join(" ".join(str(part).split()) for part in (found.get("summary"), found.get("detail")) if part)
    # An error with an address comes from a provider, or from a module that is not installed yet.
    own = file is not None and not found.get("address") and not str(found.get("summary")).startswith("Module not in")
    return Diagnostic(f"{where}{text}", file if own else None, own and (code.startswith("variable") or file == INPUTS))
