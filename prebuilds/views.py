"""Rows and documents as operators and services read them: the shapes that `--json` prints."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import BuildStatus, Payload, Stage, Timestamp, Transition


class WorkspaceRow(Payload):
    id: UUID
    name: str
    owner: str
    organization: str
    template: str
    preset_id: UUID | None
    preset: str | None
    version: int
    status: str
    """Of the latest build: `starting`, `running`, `stopping`, `stopped`, `deleting`, `failed` or `canceled`."""
    prebuilt: bool
    """Made by the pool, claimed or not."""
    ready: bool
    """Its owner can work in it now; for a prebuild: it can be claimed now."""
    address: str | None
    created_at: Timestamp
    claimed_at: Timestamp | None
    ttl_seconds: float | None


class JobRow(Payload):
    build_id: UUID
    workspace_id: UUID
    preset_id: UUID | None
    transition: Transition
    stage: Stage
    status: BuildStatus
    initiator: str
    queue: str
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    error: str | None


class EventRow(Payload):
    at: Timestamp
    kind: str
    actor: str
    data: dict[str, Any]


class WorkspaceDetails(WorkspaceRow):
    resources: dict[str, Any]
    host: str | None
    builds: list[JobRow]
    events: list[EventRow]


class LoopStatus(Payload):
    state: Literal["never_started", "running", "draining", "stopped"]
    cause: str | None
    last_pass_at: Timestamp | None
    passes: int
    paused: bool
    paused_reason: str | None
    paused_by: str | None = None
    note: str | None = None
    """What the operator should know: Temporal does not answer, a signal was not understood."""


class LastError(Payload):
    build_id: UUID
    message: str
    at: Timestamp


class PresetRow(Payload):
    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    desired: int
    actual: int
    eligible: int
    expired: int
    extraneous: int
    starting: int
    stopping: int
    deleting: int
    held: str | None
    held_until: Timestamp | None
    waiting: int
    pending_builds: int
    failed: int
    last_error: LastError | None
    warnings: list[str] = Field(default_factory=list)


class SystemStatus(Payload):
    loop: LoopStatus
    presets: list[PresetRow]


class CancelResult(Payload):
    canceled: int
    skipped: int
    """Matched, but ended or begun meanwhile."""


class JobFilter(Payload):
    """Which builds; every given field must match."""

    initiator: str | None = None
    status: list[BuildStatus] = Field(default_factory=list)
    template: str | None = None
    """`organization/template`."""

    @property
    def empty(self) -> bool:
        return self.initiator is None and not self.status and self.template is None
