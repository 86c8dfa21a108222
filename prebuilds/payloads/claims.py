"""Inputs, results and status of claims."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from prebuilds.api import InvalidInput
from prebuilds.payloads.base import ONLY_LEASED, ONLY_PAUSED, Payload
from prebuilds.payloads.claim_ids import CLAIMS_MAX
from prebuilds.vocabulary import (
    TTL_MAX,
    LeaseSeconds,
    MissReason,
    Name,
    OnEmpty,
    Source,
    Text,
    Texts,
    Timestamp,
)
from prebuilds.vocabulary.owners import OwnerName, owner_key


class ClaimTerms(Payload):
    """The fields that a claim and a batch of claims have in common."""

    preset: Text | None = None
    """An id, or `organization/template/preset`."""
    template: Text | None = None
    """`organization/template`, in place of a preset; `parameters` choose the preset."""
    parameters: Texts = Field(default_factory=dict)
    """With `template`: they choose the preset, the one with the most parameters that all occur here. With `preset`:
    they may only repeat the preset's own values."""
    owner: OwnerName
    """The person who gets the workspace. Never `prebuilds`."""
    initiator: OwnerName | None = None
    """The person who asks; None for the owner. Never `prebuilds`."""
    create_owner: bool = False
    """Whether the claim's transaction makes an unknown owner a user and a member of the organization, and a known user
    a member. It never brings back a member who was removed, or a user who was disabled."""
    autostart_schedule: Text | None = None
    """When the workspace starts by itself: a cron expression, in UTC unless `CRON_TZ=Zone` precedes it; None for
    never."""
    next_start_at: Timestamp | None = None
    """The first automatic start; None to compute it from the schedule. Needs `autostart_schedule`."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """How long the workspace runs after a start; None for the template's `default_ttl`, 0 for no end."""
    lease_seconds: LeaseSeconds | None = ONLY_LEASED
    """How long the workspace is kept without a renewal; then it is released. The time begins when the workspace is
    ready. None for no lease."""
    claim_parameters: Texts = Field(default_factory=dict)
    """Values for parameters that the preset lists in `claim_parameters`. They are treated as secrets."""
    on_empty: OnEmpty = OnEmpty.FAIL
    """What to do when no prebuild is ready: fail, create an ordinary workspace, or wait in the queue for a prebuild."""
    wait_timeout_seconds: float = Field(default=300, gt=0, le=86_400)
    """The longest time in the queue. Needs `on_empty` `wait`."""
    on_timeout: Literal["fail", "create"] = "fail"
    """What to do when the wait times out. Needs `on_empty` `wait`."""

    @model_validator(mode="after")
    def _one_target(self) -> ClaimTerms:
        if (self.preset is None) == (self.template is None):
            raise ValueError("give exactly one of preset and template")
        return self

    @property
    def initiator_or_owner(self) -> str:
        """The name of the initiator, or else of the owner."""
        return self.owner if self.initiator is None else self.initiator

    def same_for_all_spellings(self) -> Self:
        """Return this request with people's keys in place of their names, for comparison: `Alice` and `alice` are one
        owner."""
        owner, initiator = owner_key(self.owner), None if self.initiator is None else owner_key(self.initiator)
        if (owner, initiator) == (self.owner, self.initiator):
            return self
        return self.model_copy(update={"owner": owner, "initiator": initiator})


class ClaimRequest(ClaimTerms):
    """Input of `ClaimWorkspace`: one claim."""

    name: Name
    """The workspace's name, unique among the owner's live workspaces."""


class ClaimsRequest(ClaimTerms):
    """Input of `ClaimWorkspaces`: many claims in one transaction, all or nothing."""

    names: list[Name] = Field(min_length=1, max_length=CLAIMS_MAX)
    """The workspaces' names, distinct and unique among the owner's live workspaces; one claim for each."""

    @model_validator(mode="after")
    def _distinct_names(self) -> ClaimsRequest:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must be distinct, since a name is unique for its owner")
        return self


class ClaimRun(Payload):
    """One run of a claim's workflow; all its activity attempts share it. A claim that is sent again has a new run."""

    id: str
    """Temporal's run id of the claim's workflow."""
    began_at: Timestamp
    """When the run began, by Temporal's clock. It is compared only with other runs of the same claim."""
    ends_at: Timestamp | None = None
    """When the attempt at the run that has this value ends, by the database's clock: what reaches the database later
    takes nothing. None: an attempt without an end, as every one is until the process that makes it sets this."""
    token_id: UUID | None = None
    """The token that the request came with; None for a request without one, such as a workflow's."""


class ClaimResult(Payload):
    """The workspace that a claim has won."""

    claim_id: str
    workspace_id: UUID
    """The workspace's id; a prebuilt workspace keeps the one that it had in the pool."""
    name: str
    owner: str
    initiator: str
    preset_id: UUID | None
    source: Source
    """`prebuilt`: the workspace was ready in the pool. `paused`: none was ready, and a paused one is being resumed.
    `created`: there was neither, and a workspace is being created."""
    miss_reason: MissReason | None
    """Why no prebuild was ready; None when `source` is `prebuilt` or `paused`."""
    build_id: UUID
    """The build that hands the workspace over or makes it. The workspace is ready when this build has succeeded."""
    claimed_at: Timestamp
    address: str | None
    """The workspace's address; None for a `paused` or `created` workspace, whose address is known when its build
    succeeds."""
    lease_seconds: float | None = ONLY_LEASED
    """Duration of the lease and of each renewal, in seconds; left out for a claim without a lease."""
    lease_until: Timestamp | None = ONLY_LEASED
    """The earliest end of the lease. The lease restarts when the claim's build ends and at each renewal, but this
    answer does not change. Left out for a claim without a lease."""
    deadline: Timestamp | None = ONLY_PAUSED
    """When a `paused` workspace should be usable: its build fails if it is not ready within the template's
    `ready_timeout`. Left out for other sources."""
    version: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    """The template version of a prebuild of an older version, which may serve while a rollout runs; None, and left out,
    for the active version."""


class ClaimsResult(Payload):
    """Result of `ClaimWorkspaces`."""

    claim_id: str
    claims: list[ClaimResult]
    """In the order of the names; their claim ids are `{claim_id}/{n}`."""


class ClaimQueued(Payload):
    """The place of a claim that waits in the queue, because no prebuild was ready."""

    position: int
    """The place in the queue, from 1."""
    deadline: Timestamp
    """When the wait ends, by the database's clock. It is for display."""
    left_seconds: float | None = None
    """Seconds until the deadline, by the database's clock. The workflow's timer uses it, so that clock skew between the
    database and Temporal does not shorten the wait. None only in answers that predate this field."""


class ClaimPlace(Payload):
    """The state of a claim that was queued. When both fields are None, the claim has left the queue with nothing."""

    result: ClaimResult | None = None
    """The workspace that the claim was given; None when it has none."""
    waiting: ClaimQueued | None = None
    """Its place in the queue; None when it waits no more."""


class ClaimStatus(Payload):
    """Answer of the `ClaimWorkspace` query `status`."""

    state: Literal["deciding", "waiting", "claimed", "failed", "canceled"]
    position: int | None = None
    """The place in the queue, from 1, as last read; None unless the claim waits."""
    deadline: Timestamp | None = None
    """When the wait ends; None unless the claim waits."""


def waits_not(field: str) -> InvalidInput:
    """The error of a claim that does not wait, and has a field for one that does."""
    return InvalidInput.field(
        field, "is for claims that wait", "let the claim wait, or leave this out", inputs={"on_empty": "wait"}
    )
