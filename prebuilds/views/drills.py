"""Drills as commands show them."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp
from prebuilds.vocabulary.drills import DrillStage


class DrillRow(Payload):
    """One drill of a template."""

    id: UUID
    template: str
    """`organization/template`."""
    preset: str | None
    """The name of the preset whose prebuild it took; None until one is chosen."""
    version: int | None
    """The number of the template version that it tried; None until a preset is chosen, and after the version's
    removal."""
    requested_by: str | None
    """Who started it; None for the template's schedule."""
    due_at: Timestamp
    status: Literal["running", "succeeded", "failed", "skipped"]
    stage: DrillStage | None
    """The step that failed; None if none did."""
    reason: str | None
    """Why it failed or was skipped; None otherwise."""
    evidence: list[str] = Field(default_factory=list)
    """The last lines of the failed step's output."""
    usable_seconds: float | None
    """Seconds from the claim until the workspace was ready; None if it never was."""
    workspace_id: UUID | None
    """The workspace that it has claimed; None if it has none."""
    build_id: UUID | None
    """The build that hands the workspace over."""
    claimed_at: Timestamp | None
    created_at: Timestamp
    ended_at: Timestamp | None


class DrillPage(Payload):
    """A page of the list of drills, newest first."""

    drills: list[DrillRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class DrillState(Payload):
    """The state of one template's drills."""

    organization: str
    template: str
    next_at: Timestamp | None
    """When the next drill is due; None without a schedule."""
    succeeded_at: Timestamp | None
    """When the newest successful drill ended; None if there was none."""
    usable_seconds: float | None
    """Seconds from the claim until the workspace was ready, in that drill."""
    failed: bool
    """Whether the newest drill that was not skipped failed."""
    stage: DrillStage | None
    reason: str | None
    stale: bool
    """Whether two scheduled times in a row have passed without a success."""

    @property
    def path(self) -> str:
        """`organization/template`."""
        return f"{self.organization}/{self.template}"
