"""Rollouts, as people are shown them."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class RolloutPool(Payload):
    """The current state of one pool that a rollout replaces."""

    preset: str
    """Its name in the template."""
    desired: int
    new_ready: int
    new_starting: int
    old_ready: int
    """Ready prebuilds of all older versions."""
    old_starting: int
    held: str | None
    """Why creations of the new version are held, in the words of `status`; None if they are not."""
    lacks_room: bool = False
    """Whether the rollout makes no progress because the organization's `pool_members` leaves no room for the surge."""


class RolloutCanary(Payload):
    """The canary of a rollout, running or ended."""

    state: str
    """`running`, `passed`, `failed`, or `ended` when the rollout or the template's canary ended before a verdict."""
    percent: int
    """The new version's share of each pool, and of the pool's claims by name, when the rollout began."""
    claims: int
    """Number of claims by name that were served while the canary ran."""
    new_claims: int
    """Number of these that the new version has served."""
    evidence: str | None = None
    """How many of the new version's creations, hand-overs and drills were bad so far. This field and the following ones
    are set only when one rollout is shown and its canary runs."""
    older_evidence: str | None = None
    """How many of the older version's were bad since the rollout began."""
    handed_over: int | None = None
    """Number of the new version's hand-overs that have ended."""
    min_claims: int | None = None
    """Minimum number of hand-overs before it passes."""
    passes_at: Timestamp | None = None
    """The earliest time at which it may pass. It may fail earlier."""


class RolloutRow(Payload):
    """One rollout of a template."""

    id: UUID
    template: str
    """`organization/template`."""
    from_version: int
    """The pools' version when the rollout began."""
    to_version: int
    state: str
    """`running`, `paused`, `failed`, `succeeded`, `superseded` or `undone`. The first three are open."""
    reason: str | None
    """Why it failed or ended early; None otherwise."""
    progress: int
    """Percentage of members that were new and ready at the last pass."""
    strategy: str
    """The template's strategy when the rollout began."""
    started_by: str
    started_at: Timestamp
    ended_at: Timestamp | None
    """When it ended; None while it is open."""
    canary: RolloutCanary | None = None
    """The rollout's canary; None if it has none."""
    leaves: str | None = None
    """For a rollout back from a version that was never rolled out completely: `failed` if that failed as a canary, else
    `unfinished`. None for other rollouts."""
    pools: list[RolloutPool] = Field(default_factory=list)
    """The pools that it replaces. Set only when one rollout is shown and it is open."""


class RolloutPage(Payload):
    """A page of the list of rollouts, newest first."""

    rollouts: list[RolloutRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
