"""Presets as they are defined, and what commands on them return."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import ONLY_PAUSED, ONLY_STANDBY, Payload, Replacement
from prebuilds.vocabulary import Timestamp


class WindowRow(Payload):
    """A window of a preset's schedule."""

    cron: str
    instances: int
    least: bool = False
    """Whether `instances` is a minimum, so that a larger count outside windows applies in the window, too."""

    @property
    def count(self) -> str:
        """The count as text: `10`, or `at least 10`."""
        return f"at least {self.instances}" if self.least else str(self.instances)


class TargetRow(Payload):
    """A preset's target: either `hit_rate` or `wait_p95_seconds` is set."""

    hit_rate: float | None
    wait_p95_seconds: float | None
    min: int
    max: int
    max_idle: float | None
    """Maximum average number of ready prebuilds; None for no limit."""
    max_paused: int = ONLY_STANDBY
    """Maximum number of paused prebuilds that may be chosen; left out if none are chosen."""
    paused_cost: float | None = ONLY_PAUSED
    """What a paused prebuild costs, as a share of a ready one; None for 0.1."""
    mode: Literal["suggest", "act"]
    """`act`: the pool follows the size; `suggest`: the size is only shown."""


class PresetInfo(Payload):
    """A preset as it is defined; `PresetRow` describes its pool."""

    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    instances: int | None
    """The base count of prebuilds; None for no pool."""
    expire_after_seconds: float | None
    default: bool
    parameters: dict[str, str]
    claim_parameters: list[str]
    timezone: str | None
    schedule: list[WindowRow]
    ready_by: bool = False
    """Whether a window's prebuilds should be ready when it begins."""
    head_start_seconds: float | None = None
    """Seconds before a window at which its creations begin; None without `ready_by`, and until a lead time was
    measured."""
    target: TargetRow | None = None
    """The preset's target; None if `instances` is the pool's size outside the schedule's windows."""
    size: int | None = None
    """The size that the target results in now; None without a target, and until a creation was measured."""
    cost_per_hour: float | None = None
    """Cost of one prebuild per hour; None if the template file does not have it."""
    standby: int = ONLY_STANDBY
    """Number of paused prebuilds to keep, beside the ready ones, as it is written."""
    size_paused: int | None = ONLY_PAUSED
    """Number of paused prebuilds that was chosen for the target; None if none was chosen yet."""
    max_concurrent: int | None = None
    """Maximum number of creations and deletions under way at a time; None for no limit."""
    last_invalidated_at: Timestamp | None
    limit_reset_at: Timestamp | None
    ready: int
    """Prebuilds that can be claimed now."""
    starting: int
    """Prebuilds that are being made."""
    paused: int = ONLY_STANDBY
    """Paused prebuilds. A claim that finds none ready gets one of them at once, and resumes it."""
    estimated_wait_seconds: float | None
    """How long a claim that is made now has to wait, from what is being made and how long that took before: 0 when a
    prebuild is ready; None when nothing is on its way, or no creation was measured yet."""


class PresetPage(Payload):
    """A page of the list of presets, by path."""

    presets: list[PresetInfo]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class InvalidateResult(Payload):
    """Result of `presets invalidate`, as counts."""

    presets: int
    prebuilds: int
    """Prebuilds, ready or being made, that will be replaced."""


class LiftResult(Payload):
    """Result of `presets resume`."""

    preset_id: UUID
    preset: str
    """`organization/template/preset`."""
    lifted: str | None
    """The hold that was lifted; None when no failed creation held the preset and nothing was changed."""


class LintReport(Payload):
    """Result of `LintPreset`: a claim of one ready prebuild, planned with made-up inputs and not applied."""

    preset: str
    preset_id: UUID
    workspace_id: UUID
    """The prebuild for which the claim was planned."""
    replacements: list[Replacement] = Field(default_factory=list)
