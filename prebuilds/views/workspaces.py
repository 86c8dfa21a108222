"""Workspaces, and what commands on them return."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import ONLY_LEASED, Payload
from prebuilds.views.events import EventRow
from prebuilds.views.jobs import JobRow
from prebuilds.vocabulary import Timestamp, Transition


class WorkspaceRow(Payload):
    """A workspace."""

    id: UUID
    name: str
    owner: str
    organization: str
    template: str
    preset_id: UUID | None
    preset: str | None
    version: int
    """The template version with which it was made. Its preset may belong to later versions, too."""
    status: str
    """The status that follows from the latest build: `starting`, `running`, `stopping`, `stopped`, `deleting`,
    `failed`, `canceled`; `quarantined`; of one that has ended and is shown by its id, `deleted` or `abandoned`."""
    prebuilt: bool
    """Whether the pool made it; it may be claimed by now."""
    ready: bool
    """Whether its owner can work in it now; for a prebuild, whether it can be claimed now."""
    address: str | None
    created_at: Timestamp
    claimed_at: Timestamp | None
    ttl_seconds: float | None


class WorkspaceDetails(WorkspaceRow):
    """A workspace with its resources, builds and newest events."""

    resources: dict[str, Any]
    host: str | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    """When the schedule starts it next; None without a schedule."""
    next_action_at: Timestamp | None
    """Time of its next automatic action: its ttl or its lease ends, its schedule starts it, or a failed build is
    retried. None if nothing is planned."""
    lease_seconds: float | None = ONLY_LEASED
    """Duration of each renewal of its lease, in seconds; left out without a lease."""
    lease_until: Timestamp | None = ONLY_LEASED
    """When its lease ends and it is released; left out without a lease, and while the lease is suspended until it is
    renewed."""
    builds: list[JobRow]
    events: list[EventRow]
    warnings: list[str] = Field(default_factory=list)
    """`vanished`: it should run, and the inventory found nothing of it. `quarantined`: it may be somebody else's."""
    quarantine_reason: str | None = None
    """Why it is quarantined; None when it is not."""


class WorkspaceChange(Payload):
    """Result of a request to start or stop a workspace, or to retry its failed build."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    transition: Transition
    status: str
    """The workspace's status, as in `WorkspaceRow`."""
    build_id: UUID
    """The workspace's latest build: the one recorded for this request, or the one that made the request unnecessary."""
    changed: bool
    """Whether the request recorded a build."""
    canceled_build_ids: list[UUID] = Field(default_factory=list, exclude=True)
    """Builds that were canceled for the new one. Only the code that starts the new build needs them, so they are not in
    the JSON."""


class TransferResult(WorkspaceChange):
    """Result of a transfer to another owner; `workspace` is the path after it."""

    from_workspace: str
    """The path before the transfer; equal to `workspace` when nothing changed."""


class AbandonResult(Payload):
    """A workspace that was given up although its deletion has failed. Nothing of ours destroys what it has
    any more: the inventory only reports it."""

    workspace_id: UUID
    workspace: str
    """`owner/name`, which is free again."""
    build_id: UUID
    """The latest deletion that has failed."""
    error: str | None
    """Why that deletion has failed."""
    host: str | None
    """The host where things may be left; None when they are no host's, such as those of a cloud account."""
    left: dict[str, Any]
    """What may be left, as the workspace's `resources` named it. Empty when the driver has never said."""
    preset_id: UUID | None = Field(default=None, exclude=True)
    canceled_build_ids: list[UUID] = Field(default_factory=list, exclude=True)
    """Builds that were waiting; only the code that ends their workflows needs them, so they are not in the JSON."""


class WorkspaceSettings(Payload):
    """A workspace's ttl, schedule and lease after `workspaces set`."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    ttl_seconds: float | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    next_action_at: Timestamp | None
    lease_seconds: float | None = ONLY_LEASED
    """As of `WorkspaceDetails`."""
    lease_until: Timestamp | None = ONLY_LEASED
    """As of `WorkspaceDetails`."""
    changed: bool


class LeaseRenewal(Payload):
    """Result of a renewal of a workspace's lease."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    lease_seconds: float
    """Duration of each renewal from now on, in seconds."""
    lease_until: Timestamp
    """When the lease ends and the workspace is released, unless the lease is renewed again."""


class WorkspacePage(Payload):
    """A page of the list of workspaces, ordered by id, that fits into one Temporal payload."""

    workspaces: list[WorkspaceRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class KeepResult(Payload):
    """Result of `workspaces keep`."""

    workspace_id: UUID
    kept: bool
    changed: bool


class PruneResult(Payload):
    """Result of `workspaces prune`, as counts of workspaces."""

    pruned: int
    kept: int
    """Workspaces that matched and stay, because somebody keeps them as evidence."""
