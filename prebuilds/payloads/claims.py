"""Inputs, results and status of claims."""

from __future__ import annotations

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from prebuilds.api import InvalidInput
from prebuilds.payloads.base import Payload
from prebuilds.payloads.claim_ids import CLAIMS_MAX
from prebuilds.vocabulary import TTL_MAX, MissReason, Name, OnEmpty, Source, Text, Texts, Timestamp
from prebuilds.vocabulary.owners import OwnerName, owner_key


class ClaimTerms(Payload):
    """What a person or service asks for. One shape for every language: plain JSON."""

    preset: Text | None = None
    """An id, or `organization/template/preset`."""
    template: Text | None = None
    """`organization/template`, with `parameters`, in place of a preset."""
    parameters: Texts = Field(default_factory=dict)
    """With `template`, they choose the preset: the one with the most parameters that all occur here. With `preset`,
    they may repeat the preset's own values."""
    owner: OwnerName
    """The person who gets the workspace. Never `prebuilds`."""
    initiator: OwnerName | None = None
    """The person who asks; None for the owner. Never `prebuilds`."""
    create_owner: bool = False
    """Whether an owner who is not known, or no member of the organization, is made one in the claim's transaction.
    Nobody who was removed or disabled comes back by it."""
    autostart_schedule: Text | None = None
    """When the workspace starts by itself: a cron expression, with `CRON_TZ=Zone` before it unless it is in UTC. None
    for never."""
    next_start_at: Timestamp | None = None
    """The first automatic start; None to compute it from the schedule. Needs `autostart_schedule`."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """How long a start lasts; None for the template's `default_ttl`, 0 for no end."""
    claim_parameters: Texts = Field(default_factory=dict)
    """Values for the parameters that the preset lists in `claim_parameters`. They are treated as secrets."""
    on_empty: OnEmpty = OnEmpty.FAIL
    """What to do when nothing is ready: fail, create an ordinary workspace, or wait in line for a prebuild."""
    wait_timeout_seconds: float = Field(default=300, gt=0, le=86_400)
    """How long to wait at most. Needs `on_empty` `wait`."""
    on_timeout: Literal["fail", "create"] = "fail"
    """What to do when the wait was in vain. Needs `on_empty` `wait`."""

    @model_validator(mode="after")
    def _one_target(self) -> ClaimTerms:
        if (self.preset is None) == (self.template is None):
            raise ValueError("give exactly one of preset and template")
        return self

    @property
    def asked_by(self) -> str:
        return self.owner if self.initiator is None else self.initiator

    def same_for_all_spellings(self) -> Self:
        """This request with its people by their keys, to be compared: `Alice` and `alice` are one owner."""
        initiator = None if self.initiator is None else owner_key(self.initiator)
        return self.model_copy(update={"owner": owner_key(self.owner), "initiator": initiator})


class ClaimRequest(ClaimTerms):
    """One claim."""

    name: Name
    """What the owner calls the workspace; unique among their live workspaces."""


class ClaimsRequest(ClaimTerms):
    """Many claims in one transaction, all or nothing."""

    names: list[Name] = Field(min_length=1, max_length=CLAIMS_MAX)
    """What the owner calls the workspaces, one for each name."""

    @model_validator(mode="after")
    def _distinct_names(self) -> ClaimsRequest:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must be distinct, since a name is unique for its owner")
        return self


class ClaimRun(Payload):
    """One request for a claim, with all attempts to answer it. Asked again under its id, a claim has a new run."""

    id: str
    """Temporal's run id of the claim's workflow."""
    began_at: Timestamp
    """By Temporal's clock; compared only with other runs' of the same claim."""


class ClaimResult(Payload):
    """What a claim has won."""

    claim_id: str
    workspace_id: UUID
    """For a prebuilt workspace, the id that it had in the pool."""
    name: str
    owner: str
    initiator: str
    preset_id: UUID | None
    source: Source
    """`prebuilt`: it came out of the pool. `created`: nothing was ready, and it is being made."""
    miss_reason: MissReason | None
    """Why nothing was ready; None when it is `prebuilt`."""
    build_id: UUID
    """The build that hands the workspace over, or makes it; wait for it until the workspace is ready."""
    claimed_at: Timestamp
    address: str | None
    """Where the workspace is reached; None for a `created` one, which has an address when its build has succeeded."""


class ClaimsResult(Payload):
    claim_id: str
    claims: list[ClaimResult]
    """In the order of the names; their claim ids are `{claim_id}/{n}`."""


class ClaimQueued(Payload):
    """Nothing was ready, and the claim waits."""

    position: int
    """From 1."""
    deadline: Timestamp
    """By the database's clock, to be shown."""
    left_seconds: float | None = None
    """Until then, by the same clock: what a timer is set by. None in answers of before there was this field."""


class ClaimPlace(Payload):
    """Where a claim that was queued stands now."""

    result: ClaimResult | None = None
    """Set: it was handed a prebuild, and has left."""
    waiting: ClaimQueued | None = None
    """Set: it still waits. Neither: it has left with nothing."""


class ClaimStatus(Payload):
    """What the `status` query of a claim answers."""

    state: Literal["deciding", "waiting", "claimed", "failed", "canceled"]
    position: int | None = None
    """The place in the queue, from 1, as last looked up; None unless it waits."""
    deadline: Timestamp | None = None
    """When the wait ends; None unless it waits."""


def waits_not(field: str) -> InvalidInput:
    """The error of a claim that does not wait, and has a field for one that does."""
    return InvalidInput.field(
        field, "is for claims that wait", "let the claim wait, or leave this out", inputs={"on_empty": "wait"}
    )
