"""Plans the generations of a pool together, while a new version of its template replaces an older one.

A pool belongs to a preset's name. The preset of each version that has prebuilds is one generation of the pool: the
active version's is the new one, all others are old. As with a Deployment of Kubernetes, new members are made first, up
to `max_surge` more than the pool's target, and old ones go only while more than the desired count less
`max_unavailable` are ready.

Claims take members while a rollout runs, and their replacements are ready one lead time later. When old members are
removed, members that were claimed within the last lead time count as ready. Otherwise a pool with constant claims would
never be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from prebuilds.planning.canaries import CanaryPolicy

Amount = int | str
"""A number of members, or a percentage of the desired count such as `25%`."""


class Strategy(StrEnum):
    """How a new version replaces a pool."""

    SURGE = "surge"
    """Create new members first; remove old ones as new ones become ready."""
    RECREATE = "recreate"
    """Remove all old members at once."""


class RolloutState(StrEnum):
    """The state of a rollout. The first three are open: the rollout goes on, or may go on."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    """Creations of the new version are held until somebody acts. The rollout runs again when the hold is lifted."""
    SUCCEEDED = "succeeded"
    SUPERSEDED = "superseded"
    """Another version became active before it had succeeded."""
    UNDONE = "undone"
    """The version before became active again."""


OPEN = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FAILED)


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """How new versions of a template replace its pools."""

    strategy: Strategy = Strategy.SURGE
    max_surge: Amount = "25%"
    """Maximum number of members beyond the target. A percentage is rounded up."""
    max_unavailable: Amount = 0
    """Maximum number of ready members missing from the desired count. A percentage is rounded down."""
    serve_old: bool = True
    """Whether claims by name get a member of an older version while none of the new one is ready."""
    canary: CanaryPolicy | None = None
    """How a share of each pool tries a new version first; None for no canary."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any] | None) -> RolloutPolicy:
        """Read the template row's JSON value; None gives the defaults."""
        if stored is None:
            return cls()
        return cls(
            Strategy(stored["strategy"]),
            stored["max_surge"],
            stored["max_unavailable"],
            bool(stored["serve_old"]),
            CanaryPolicy.of_json(stored.get("canary")),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that `of_json` reads."""
        return {
            "strategy": self.strategy,
            "max_surge": self.max_surge,
            "max_unavailable": self.max_unavailable,
            "serve_old": self.serve_old,
            **({} if self.canary is None else {"canary": self.canary.to_json()}),
        }

    def surge(self, desired: int) -> int:
        """Return the maximum number of members beyond the target."""
        return count_of(self.max_surge, desired, up=True)

    def unavailable(self, desired: int) -> int:
        """Return the maximum number of ready members missing from *desired*. It is 1 if both limits come to 0, since
        otherwise nothing could be replaced."""
        allowed = count_of(self.max_unavailable, desired, up=False)
        return allowed if allowed or self.surge(desired) else 1


def share_of(percent: int, desired: int) -> int:
    """Return a canary's number of members in a pool: the percentage, rounded up."""
    return count_of(f"{percent}%", desired, up=True)


def count_of(amount: Amount, whole: int, *, up: bool) -> int:
    """Return an amount as a number of members."""
    if isinstance(amount, int):
        return amount
    hundredths = int(amount.removesuffix("%")) * whole
    return -(-hundredths // 100) if up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Rollout:
    """The open rollout of a template, as planning its pools needs it."""

    id: UUID
    policy: RolloutPolicy
    state: RolloutState
    progress: int = 0
    """Percentage of members that were new at the last pass."""
    canary: bool = False
    """Whether a canary runs: the new version has a share of each pool, and no verdict yet."""
    leaves_failed: bool = False
    """Whether it began because the version that it leaves has failed as a canary."""


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

    @property
    def total(self) -> int:
        """Its members, without those that are deleted anyway because they are expired or unhealthy."""
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
    def total(self) -> int:
        return self.new.total + sum(one.total for one in self.old)

    @property
    def limit(self) -> int:
        """The maximum number of members. If the organization's limit on pool members is exceeded, the surge shrinks
        first."""
        surged = self.target + self.policy.surge(self.desired)
        return min(surged, max(self.total - self.excess, self.target)) if self.excess else surged

    @property
    def ready(self) -> int:
        return self.new.ready + sum(one.ready for one in self.old)

    @property
    def is_whole(self) -> bool:
        """Whether the new generation has all its members ready, so that paused members of older generations are
        deleted, too. If only paused members are left, recently claimed members count as ready; otherwise they would
        stay as long as claims go on."""
        made = self.new.ready if any(one.total for one in self.old) else self.new.ready + self.lately
        return not self.stands and self.canary is None and made >= self.target

    @property
    def stands(self) -> bool:
        """Whether the old generations keep their members, since the new one may not grow."""
        return self.paused or self.new.held


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass does to the generations of a pool: counts by preset."""

    create: int = 0
    create_for: UUID | None = None
    """The preset of the generation that gets the creations; None without creations."""
    remove: Mapping[UUID, int] = field(default_factory=dict)
    """Number of fresh members to delete: first those that no claim can get, then the oldest."""
    cancel: Mapping[UUID, int] = field(default_factory=dict)
    """Number of creations of old generations to cancel; no worker has begun them."""


def plan_step(pool: PoolInRollout, *, as_it_stands: bool = False) -> Step:
    """Plan what one pass does to the generations of a pool.

    The new generation grows to the target. While it may not grow, because the rollout is paused or its creations are
    held, the old generations stay, and claimed members are replaced in the newest old generation whose creations are
    not held. While a canary runs, the new generation grows to its share, and the old ones keep the rest.

    Args:
        as_it_stands: Count creations as if nothing is removed or cancelled. A pass needs this if its deletions have not
            taken effect.
    """
    cancel = _plan_cancellations(pool)
    remove = _plan_removals(pool, canceled=sum(cancel.values()))
    total = pool.total - (0 if as_it_stands else sum(remove.values()) + sum(cancel.values()))
    if pool.stands:
        refilled = next((one for one in pool.old if not one.held), None)
        if refilled is None and not pool.new.held:
            refilled = pool.new
        create, create_for = max(pool.target - total, 0), refilled
    else:
        create, create_for = max(min(pool.new_target - pool.new.total, pool.limit - total), 0), pool.new
        if not create:
            create_for = next((one for one in pool.old if not one.held), None)
            create = max(min(pool.old_target - sum(one.total for one in pool.old), pool.limit - total), 0)
    if create_for is None or not create:
        return Step(remove=remove, cancel=cancel)
    return Step(create, create_for.preset_id, remove, cancel)


def _plan_removals(pool: PoolInRollout, *, canceled: int) -> dict[UUID, int]:
    """Count the fresh members to remove from each generation, without zeros."""
    found = {pool.new.preset_id: max(pool.new.fresh - pool.target, 0)}
    ready = pool.ready - min(found[pool.new.preset_id], pool.new.ready)
    spare = max(ready + pool.lately - (pool.desired - pool.policy.unavailable(pool.desired)), 0)
    if pool.stands:
        spare = min(spare, max(pool.total - canceled - pool.limit, 0))
    elif pool.canary is not None:
        spare = min(spare, max(sum(one.total for one in pool.old) - canceled - pool.old_target, 0))
    for one in reversed(pool.old):  # the oldest first
        ready_ones = min(one.ready, spare)
        spare -= ready_ones
        found[one.preset_id] = one.fresh - one.ready + ready_ones
    return {preset: count for preset, count in found.items() if count}


def _plan_cancellations(pool: PoolInRollout) -> dict[UUID, int]:
    """Count the creations to cancel in each old generation, without zeros."""
    found: dict[UUID, int] = {}
    surplus = sum(one.pending for one in pool.old)
    if pool.stands:
        surplus = max(pool.total - pool.target, 0)
    elif pool.canary is not None:
        surplus = max(sum(one.total for one in pool.old) - pool.old_target, 0)
    for one in reversed(pool.old):
        found[one.preset_id] = min(one.pending, surplus)
        surplus -= found[one.preset_id]
    return {preset: count for preset, count in found.items() if count}
