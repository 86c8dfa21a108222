"""A pool with several generations at one instant, as counts for a rollout's plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.planning.rollouts import RolloutPolicy, share_of


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a pool, as counts."""

    preset_id: UUID
    fresh: int = 0
    """Running members that are neither expired nor unhealthy."""
    ready: int = 0
    """Fresh members that a claim can get."""
    starting: int = 0
    pending: int = 0
    """Starting members whose build no worker has begun."""
    held: bool = False
    """Whether its creations are held."""
    idle: int = 0
    """Paused members that are not expired."""
    pausing: int = 0
    resuming: int = 0
    """Starting members that were ready before."""
    moves_failed: int = 0
    """Evidence of failed pauses and resumes."""
    resumes_failed: int = 0
    """Evidence of failed resumes."""

    @property
    def total(self) -> int:
        """Its members that are ready or being made, without those that are deleted anyway because they are expired or
        unhealthy."""
        return self.fresh + self.starting


@dataclass(frozen=True, slots=True)
class PoolInRollout:
    """All generations of one pool at one instant."""

    desired: int
    target: int
    """The desired count plus the waiting claims."""
    new: Generation
    old: Sequence[Generation]
    """The old generations: first the one that the rollout began from, then the others, newest first."""
    policy: RolloutPolicy
    paused: bool = False
    """Whether somebody has paused the rollout."""
    lately: int = 0
    """Members that were claimed within the last lead time, so that their replacements are not ready yet."""
    excess: int = 0
    """Number of members that the organization's pools have beyond its limit on pool members."""
    canary: int | None = None
    """The new generation's percentage while a canary runs; None without a running canary."""
    standby: int = 0
    """Number of members that should be paused."""
    cramped: bool = False
    """Whether the organization's limit on pool members has no room for one more."""

    @property
    def new_target(self) -> int:
        """Number of members that the new generation should have."""
        return self.target if self.canary is None else min(share_of(self.canary, self.desired), self.target)

    @property
    def old_target(self) -> int:
        """Number of members that the old generations keep while a canary runs: the rest of the target, and at least
        one, since they serve the other claims."""
        if self.canary is None or not self.target:
            return 0
        return max(self.target - self.new_target, 1)

    @property
    def all(self) -> Sequence[Generation]:
        return [*self.old, self.new]

    @property
    def total(self) -> int:
        """The members that are ready or being made."""
        return sum(one.total for one in self.all)

    @property
    def ready(self) -> int:
        return sum(one.ready for one in self.all)

    @property
    def idle(self) -> int:
        return sum(one.idle for one in self.all)

    @property
    def limit(self) -> int:
        """The maximum number of members that are ready or being made. If the organization's limit on pool members is
        exceeded, the surge shrinks first."""
        surged = self.target + self.policy.surge(self.desired) + self.places
        return min(surged, max(self.total - self.excess, self.target)) if self.excess else surged

    @property
    def is_in_place(self) -> bool:
        """Whether the new generation has taken the place of the ready members of all others, so that it gets a standby
        of its own, too."""
        made = self.new.ready >= self.target or not any(one.total for one in self.old)
        return not self.stands and self.canary is None and made

    @property
    def keepers(self) -> Sequence[Generation]:
        """The generations that refill the pool from their paused members, in the order in which these are resumed."""
        if self.stands:
            return self.all
        return [self.new] if self.canary is None else self.old

    @property
    def growth(self) -> int:
        """Number of members to make beyond the target for the standby; negative while paused ones are used up.

        While the new generation replaces ready members, it makes none for the standby, and the old generations' standby
        is a reserve. Once it is in place, it makes its standby as it made its ready members: up to a surge more than
        the standby.
        """
        if self.stands or self.canary is not None:
            return self.standby - sum(one.idle + one.pausing + one.moves_failed for one in self.all)
        if not self.is_in_place:
            return -self.new.idle
        own = self.new.idle + self.new.pausing + self.new.moves_failed
        every = own + sum(one.idle + one.pausing for one in self.old)
        return min(self.standby - own, self.standby + self.policy.surge(self.standby) - every)

    @property
    def places(self) -> int:
        """Number of members beyond the target that may be ready or being made, since they are for the standby."""
        return max(self.growth, 0)

    @property
    def stands(self) -> bool:
        """Whether the old generations keep their members, since the new one may not grow."""
        return self.paused or self.new.held
