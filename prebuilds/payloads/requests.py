"""The input of an `OperatorRequest`, and what its releases return."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from prebuilds.payloads.base import ONLY_LEASED, Payload
from prebuilds.payloads.claim_ids import CLAIMS_MAX
from prebuilds.vocabulary import TTL_MAX, LeaseSecondsOrNone, Text

DeploymentAction = Literal["status", "start", "stop", "pause", "resume"]
WorkspaceRead = Literal["list_workspaces", "show_workspace"]
WorkspaceAction = Literal[
    "release",
    "abandon",
    "release_claims",
    "start_workspace",
    "stop_workspace",
    "retry",
    "set",
    "renew",
    "transfer",
]
PeopleAction = Literal["add_members", "remove_members", "disable_users", "enable_users"]
DrillAction = Literal["run_drill", "list_drills", "show_drill"]


class RequestRun(Payload):
    """One run of an `OperatorRequest` workflow; all its activity attempts share it."""

    id: str
    """The workflow's run id."""
    began_at: AwareDatetime
    """When the run began, by Temporal's clock."""
    expires_at: AwareDatetime
    """From then on no attempt takes effect."""


class OperatorRequest(Payload):
    """Input of the workflow `OperatorRequest`: one action that an operator or a service asks for through Temporal."""

    action: Literal[DeploymentAction, WorkspaceRead, WorkspaceAction, PeopleAction, DrillAction]
    workspace: Text | None = None
    """For every action on one workspace: `owner/name` or an id."""
    owner: Text | None = None
    """For `list_workspaces`: the owner whose workspaces are listed; None for everybody's."""
    preset: Text | None = None
    """For `list_workspaces`: the preset whose workspaces are listed, an id or `organization/template/preset`; None for
    all."""
    reason: Text | None = None
    """For `pause` and `stop`: the reason, which is kept and shown."""
    by: Text = "operator"
    """The actor, for the record. A user's name makes that user the initiator of the recorded build."""
    interval_seconds: float | None = Field(default=None, gt=0, le=86_400)
    """For `start`: seconds between passes; None keeps the current interval."""
    after: str | None = None
    """For `status`, `list_workspaces` and `list_drills`: the `next` of the previous page; None for the first page."""
    limit: int | None = Field(default=None, ge=1)
    """For `status`, `list_workspaces` and `list_drills`: the maximum number of rows of a page; None for as many as fit
    into one answer."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """For `set`: how long the workspace runs after a start; 0 for no end, None keeps the current ttl."""
    autostart_schedule: Text | None = None
    """For `set`: a cron expression; empty or `none` for no schedule, None keeps the current schedule."""
    lease_seconds: LeaseSecondsOrNone | None = ONLY_LEASED
    """For `renew`: the duration of each renewal from now on; None leaves it unchanged. For `set`: the same, also
    shorter than the remaining time; 0 for no lease, None leaves the lease unchanged."""
    claim_ids: list[Text] = Field(default_factory=list, max_length=CLAIMS_MAX)
    """For `release_claims`: the claims that are given up. They leave the queue, and workspaces that they have won are
    released."""
    to: Text | None = None
    """For `transfer`: the new owner, an enabled member of the workspace's organization."""
    name: Text | None = None
    """For `transfer`: the workspace's new name; None keeps the current one."""
    organization: Text | None = None
    """For `add_members` and `remove_members`: the organization's name."""
    users: list[Text] = Field(default_factory=list)
    """For `add_members`, `remove_members`, `disable_users` and `enable_users`: the users' names."""
    target: Text | None = None
    """For `run_drill`: `organization/template`, whose presets take turns, or `organization/template/preset`."""
    template: Text | None = None
    """For `list_drills`: the template whose drills are listed, an id or `organization/template`; None for all."""
    drill: UUID | None = None
    """For `show_drill`: the drill's id."""


class ReleaseResult(Payload):
    """A released workspace, and the build that deletes it."""

    workspace_id: UUID
    build_id: UUID


class ReleasedClaims(Payload):
    """Result of `release_claims`."""

    released: list[ReleaseResult]
    """The workspaces that the claims had won; a claim that had won none has no entry."""
