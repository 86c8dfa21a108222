"""Workspaces, and what commands on them return."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.views.events import EventRow
from prebuilds.views.jobs import JobRow
from prebuilds.vocabulary import Timestamp, Transition


class WorkspaceRow(Payload):
    id: UUID
    name: str
    owner: str
    organization: str
    template: str
    preset_id: UUID | None
    preset: str | None
    version: int
    """The template version that it was made with. Its preset may be a part of later versions, too."""
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


class WorkspaceDetails(WorkspaceRow):
    resources: dict[str, Any]
    host: str | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    """The schedule's next moment."""
    next_action_at: Timestamp | None
    """When it is looked at next: its ttl ends, it starts, something failed is tried again."""
    builds: list[JobRow]
    events: list[EventRow]
    warnings: list[str] = Field(default_factory=list)
    """`vanished`: it should run, and nothing of it was found. `quarantined`: it may be somebody else's."""
    quarantine_reason: str | None = None


class WorkspaceChange(Payload):
    """What became of a request to start or stop a workspace, or to try its failed build again."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    transition: Transition
    status: str
    """As `WorkspaceRow` has it."""
    build_id: UUID
    """The latest build: recorded for this request, or what made it needless."""
    changed: bool
    canceled_build_ids: list[UUID] = Field(default_factory=list, exclude=True)
    """Builds that had to make way for the new one. For who starts that one, not for who asked: never in the JSON."""


class TransferResult(WorkspaceChange):
    """What became of handing a workspace to another owner; `workspace` is its path from now on."""

    from_workspace: str
    """Its path before; the same when nothing changed."""


class WorkspaceSettings(Payload):
    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    ttl_seconds: float | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    next_action_at: Timestamp | None
    changed: bool


class WorkspacePage(Payload):
    """A part of the list of workspaces, in the order of their ids, that fits into one Temporal payload."""

    workspaces: list[WorkspaceRow]
    next: str | None
    """To be given as `after` for what follows; None: this was the last page."""


class KeepResult(Payload):
    workspace_id: UUID
    kept: bool
    changed: bool


class PruneResult(Payload):
    pruned: int
    kept: int
    """Would have been pruned, were they not kept."""
