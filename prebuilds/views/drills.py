"""Drills, and what commands on them return."""

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
    """The name of the preset that it took a prebuild of; None while none is chosen."""
    version: int | None
    """The number of the template's version that it has tried; None while no preset is chosen, or when the version is
    removed."""
    requested_by: str | None
    """Who asked for it; None for the template's schedule."""
    due_at: Timestamp
    status: Literal["running", "succeeded", "failed", "skipped"]
    stage: DrillStage | None
    """Where it failed; None unless it has."""
    reason: str | None
    """Why it has failed or was skipped; None otherwise."""
    evidence: list[str] = Field(default_factory=list)
    """The last lines that the step which failed has written."""
    usable_seconds: float | None
    """From the claim until the workspace was ready; None unless it was."""
    workspace_id: UUID | None
    """The workspace that it has claimed; None while it has none."""
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
    """How the drills of one template stand."""

    organization: str
    template: str
    next_at: Timestamp | None
    """When the next one is due; None when none is scheduled."""
    succeeded_at: Timestamp | None
    """When the newest success ended; None when there was none."""
    usable_seconds: float | None
    """From the claim until the workspace was ready, in that success."""
    failed: bool
    """Whether the newest drill that was not skipped has failed."""
    stage: DrillStage | None
    reason: str | None
    stale: bool
    """Whether two scheduled times in a row have passed without a success."""

    @property
    def path(self) -> str:
        """`organization/template`."""
        return f"{self.organization}/{self.template}"
