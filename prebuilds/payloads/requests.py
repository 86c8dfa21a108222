"""The input of an `OperatorRequest`, and what its releases return."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from prebuilds.payloads.base import Payload
from prebuilds.payloads.claim_ids import CLAIMS_MAX
from prebuilds.vocabulary import TTL_MAX, Text

DeploymentAction = Literal["status", "start", "stop", "pause", "resume"]
WorkspaceRead = Literal["list_workspaces", "show_workspace"]
WorkspaceAction = Literal["release", "release_claims", "start_workspace", "stop_workspace", "retry", "set", "transfer"]
PeopleAction = Literal["add_members", "remove_members", "disable_users", "enable_users"]


class RequestRun(Payload):
    """One operator's request, with all attempts of Temporal at it."""

    id: str
    """Temporal's run id of the request's workflow."""
    began_at: AwareDatetime
    """By Temporal's clock."""
    expires_at: AwareDatetime
    """After it no attempt takes effect any more."""


class OperatorRequest(Payload):
    """What an operator or a service asks of the deployment through Temporal."""

    action: Literal[DeploymentAction, WorkspaceRead, WorkspaceAction, PeopleAction]
    workspace: Text | None = None
    """`owner/name` or an id, for every action on one workspace."""
    owner: Text | None = None
    """For `list_workspaces`: only workspaces of this owner; None for those of everybody."""
    preset: Text | None = None
    """For `list_workspaces`: only workspaces of this preset, by id or `organization/template/preset`; None for all."""
    reason: Text | None = None
    """Why, for `pause` and `stop`; it is kept and shown."""
    by: Text = "operator"
    """Who asks, for the record. A user's name makes them the initiator of the build that is recorded."""
    interval_seconds: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds between passes, for `start`; None leaves them as they are."""
    after: str | None = None
    """For `status` and `list_workspaces`: the `next` of the page before; None for the first page."""
    limit: int | None = Field(default=None, ge=1)
    """For `status` and `list_workspaces`: rows of one page at most; None for as many as the deployment puts into one
    answer."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """For `set`: how long a start lasts; 0 for no end, None leaves it as it is."""
    autostart_schedule: Text | None = None
    """For `set`: a cron expression; empty or `none` for no schedule, None leaves it as it is."""
    claim_ids: list[Text] = Field(default_factory=list, max_length=CLAIMS_MAX)
    """For `release_claims`: the claims that were given up. They leave the queue, and what they have won is released."""
    to: Text | None = None
    """For `transfer`: the new owner, an enabled member of the workspace's organization."""
    name: Text | None = None
    """For `transfer`: what the new owner calls the workspace; None for the name that it has."""
    organization: Text | None = None
    """For `add_members` and `remove_members`: the organization's name."""
    users: list[Text] = Field(default_factory=list)
    """The people who are added, removed, disabled or enabled."""


class ReleaseResult(Payload):
    workspace_id: UUID
    build_id: UUID


class ReleasedClaims(Payload):
    released: list[ReleaseResult]
    """Of the claims that had won; of the others there is nothing."""
