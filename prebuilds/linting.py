"""`presets lint`: what is asked, and what a claim of a preset would replace."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import Field

from prebuilds.api import PrebuildsError
from prebuilds.payloads import Payload, Replacement
from prebuilds.vocabulary import NAME_LENGTH_MAX, Text

LINT_TIMEOUT = timedelta(minutes=10)
"""Of one lint: a plan that asks a slow cloud takes minutes."""


class ClaimWouldReplace(PrebuildsError):
    """A claim would rebuild resources. Details: the report."""


class LintInput(Payload):
    preset: Text = Field(min_length=1, max_length=3 * NAME_LENGTH_MAX + 2)
    """An id, or `organization/template/preset`."""


class LintReport(Payload):
    """A claim of one ready prebuild, planned with made-up inputs and not applied."""

    preset: str
    preset_id: UUID
    workspace_id: UUID
    """The prebuild that was looked at."""
    replacements: list[Replacement] = Field(default_factory=list)


def lint_workflow_id(preset: str) -> str:
    return f"lint-preset/{preset}"
