"""Rollouts, as people are shown them."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class RolloutPool(Payload):
    """One pool that a rollout replaces, now."""

    preset: str
    """Its name in the template."""
    desired: int
    new_ready: int
    new_starting: int
    old_ready: int
    """Ready prebuilds of all older versions."""
    old_starting: int
    held: str | None
    """Why creations of the new version are withheld, by the words of `status`; None when they are not."""
    lacks_room: bool = False
    """Whether it stands still since the organization's `pool_members` leaves no room for the surge."""


class RolloutCanary(Payload):
    """How a share of the pools tries, or has tried, a rollout's new version."""

    state: str
    """`running`, `passed`, `failed`, or `ended` when the rollout or the template's canary ended before a verdict."""
    percent: int
    """The new version's share of each pool, and of the pool's claims by name, when the rollout began."""
    claims: int
    """Claims by name that were served while it ran."""
    new_claims: int
    """Those of them that the new version has served."""
    evidence: str | None = None
    """How many of the new version's creations, hand-overs and drills were bad so far; only where one rollout is shown,
    and only while its canary runs."""


class RolloutRow(Payload):
    """One rollout of a template."""

    id: UUID
    template: str
    """`organization/template`."""
    from_version: int
    """The version that the pools stood on when it began."""
    to_version: int
    state: str
    """`running`, `paused`, `failed`, `succeeded`, `superseded` or `undone`. The first three are open."""
    reason: str | None
    """Why it has failed or ended; None when that needs no reason."""
    progress: int
    """Percent of the members that were new and ready at the last pass."""
    strategy: str
    """The template's strategy when it began."""
    started_by: str
    started_at: Timestamp
    ended_at: Timestamp | None
    """None while it is open."""
    canary: RolloutCanary | None = None
    """None when the new version goes to all at once."""
    pools: list[RolloutPool] = Field(default_factory=list)
    """The pools that it replaces; only where one rollout is shown, and only while it is open."""


class RolloutPage(Payload):
    """A page of the list of rollouts, newest first."""

    rollouts: list[RolloutRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
