"""Input and result of a `WorkspaceBuild`."""

from __future__ import annotations

from uuid import UUID

from pydantic import ConfigDict, Field

from prebuilds.payloads.base import Payload
from prebuilds.vocabulary import BuildStatus, Escaped
from prebuilds.vocabulary.drills import DrillOutcome, DrillStage


class Replacement(Payload):
    """A resource that a claim replaces, and the attributes that force the replacement."""

    resource: Escaped
    """The resource's address in the template."""
    paths: list[Escaped] = Field(default_factory=list)


class WorkspaceBuildInput(Payload):
    """Input of `WorkspaceBuild`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    build_id: UUID
    queue: str | None = None
    """The task queue of its provisioning; None to look it up in the database, as callers outside a worker do."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """The most seconds that one provisioning attempt may take; None to look it up in the database."""


class DrillInput(Payload):
    """Input of `DrillTemplate`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    drill_id: UUID


class DrillResult(Payload):
    """Result of `DrillTemplate`."""

    drill_id: UUID
    status: DrillOutcome
    stage: DrillStage | None = None
    """The step that failed; None if none did."""
    reason: str | None = None
    """Why it failed or was skipped; None otherwise."""
    usable_seconds: float | None = None
    """Seconds from the claim until the workspace was ready; None if it never was."""


class WorkspaceBuildResult(Payload):
    """Result of `WorkspaceBuild`."""

    status: BuildStatus
    error: str | None = None
    """Why the build failed or was canceled; None when it succeeded."""
    replacements: list[Replacement] = Field(default_factory=list)
    address: str | None = None
    """The workspace's address, after a start that has succeeded; None otherwise."""
