"""Input and result of a `WorkspaceBuild`."""

from __future__ import annotations

from uuid import UUID

from pydantic import ConfigDict, Field

from prebuilds.payloads.base import Payload
from prebuilds.vocabulary import BuildStatus, Escaped


class Replacement(Payload):
    """One resource that a claim had to rebuild, and the attributes that forced it."""

    resource: Escaped
    paths: list[Escaped] = Field(default_factory=list)


class WorkspaceBuildInput(Payload):
    model_config = ConfigDict(extra="ignore", frozen=True)

    build_id: UUID
    queue: str | None = None
    """The task queue of its provisioning; None to look it up in the database, as every start from outside does."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """How long its provisioning may be at work; None to look it up likewise."""


class WorkspaceBuildResult(Payload):
    status: BuildStatus
    error: str | None = None
    replacements: list[Replacement] = Field(default_factory=list)
    address: str | None = None
    """Where the workspace is reached, after a start that has succeeded; None otherwise."""
