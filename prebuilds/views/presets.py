"""Presets as they are defined, and what commands on them return."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload, Replacement
from prebuilds.vocabulary import Timestamp


class WindowRow(Payload):
    cron: str
    instances: int


class PresetInfo(Payload):
    """A preset as it is defined; how its pool stands is `PresetRow`."""

    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    instances: int | None
    """None: no pool."""
    expire_after_seconds: float | None
    default: bool
    parameters: dict[str, str]
    claim_parameters: list[str]
    timezone: str | None
    schedule: list[WindowRow]
    last_invalidated_at: Timestamp | None
    limit_reset_at: Timestamp | None


class InvalidateResult(Payload):
    presets: int
    prebuilds: int
    """Ready or being made, and to be replaced."""


class LiftResult(Payload):
    preset_id: UUID
    preset: str
    """`organization/template/preset`."""
    lifted: str | None
    """None: no failed creation held it, and nothing was changed."""


class LintReport(Payload):
    """A claim of one ready prebuild, planned with made-up inputs and not applied."""

    preset: str
    preset_id: UUID
    workspace_id: UUID
    """The prebuild that was looked at."""
    replacements: list[Replacement] = Field(default_factory=list)
