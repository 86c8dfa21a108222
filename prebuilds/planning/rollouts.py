"""Plans the generations of a pool together, while a new version of its template replaces an older one.

A pool belongs to a preset's name. The preset of each version that has prebuilds is one generation of the pool: the
active version's is the new one, all others are old. As with a Deployment of Kubernetes, new members are made first, up
to `max_surge` more than the pool's target, and old ones go only while more than the desired count less
`max_unavailable` are ready.

Claims take members while a rollout runs, and what replaces them is ready one lead time later. Such members count as
ready where old ones are removed: else a pool that is claimed from all the time would never be replaced.
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
    """New members first; old ones go as new ones are ready."""
    RECREATE = "recreate"
    """All old members go at once."""


class RolloutState(StrEnum):
    """The state of a rollout. The first three are open: the rollout goes on, or may go on."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    """Creations of the new version are held until somebody acts. It runs again when the hold is lifted."""
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
    """How many members there may be beyond the target. A percentage is rounded up."""
    max_unavailable: Amount = 0
    """How many fewer than the desired count may be ready. A percentage is rounded down."""
    serve_old: bool = True
    """Whether claims by name get a member of an older version while none of the new one is ready."""
    canary: CanaryPolicy | None = None
    """How a new version is tried by a share of each pool first; None: it is not."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any] | None) -> RolloutPolicy:
        """Read what the template's row has; None is a template that says nothing."""
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
        """Return what `of_json` reads."""
        return {
            "strategy": self.strategy,
            "max_surge": self.max_surge,
            "max_unavailable": self.max_unavailable,
            "serve_old": self.serve_old,
            **({} if self.canary is None else {"canary": self.canary.to_json()}),
        }

    def surge(self, desired: int) -> int:
        """Return how many members there may be beyond the target."""
        return count_of(self.max_surge, desired, up=True)

    def unavailable(self, desired: int) -> int:
        """Return how many fewer than *desired* may be ready; 1 when both limits come to 0, since nothing could be
        replaced then."""
        allowed = count_of(self.max_unavailable, desired, up=False)
        return allowed if allowed or self.surge(desired) else 1


def share_of(percent: int, desired: int) -> int:
    """Return how many members of a pool a canary gets: the percentage rounded up."""
    return count_of(f"{percent}%", desired, up=True)


def count_of(amount: Amount, whole: int, *, up: bool) -> int:
    """Return the number of members that an amount comes to."""
    if isinstance(amount, int):
        return amount
    hundredths = int(amount.removesuffix("%")) * whole
    return -(-hundredths // 100) if up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Rollout:
    """The open rollout of a template, as its pools' plans need it."""

    id: UUID
    policy: RolloutPolicy
    state: RolloutState
    progress: int = 0
    """Percent of the members that were new when it was last looked at."""
    canary: bool = False
    """Whether a canary runs: the new version has its share, and no verdict yet."""
    leaves_failed: bool = False
    """Whether it began because the version that it leaves has failed as a canary."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a pool, in numbers."""

    preset_id: UUID
    fresh: int = 0
    """Running members that are neither expired nor unhealthy."""
    ready: int = 0
    """Those of them that a claim may get."""
    starting: int = 0
    pending: int = 0
    """Starting members whose creation has not begun."""
    held: bool = False
    """Whether its creations are held."""

    @property
    def total(self) -> int:
        """Its members without those that are deleted for reasons of their own."""
        return self.fresh + self.starting


@dataclass(frozen=True, slots=True)
class PoolInRollout:
    """All generations of one pool at one instant."""

    desired: int
    target: int
    """The desired count plus the claims that wait."""
    new: Generation
    old: Sequence[Generation]
    """The one that the rollout began from first, then the newest first."""
    policy: RolloutPolicy
    paused: bool = False
    """Whether somebody has paused the rollout."""
    lately: int = 0
    """Members that were claimed within the last lead time: what replaces them is not ready yet."""
    excess: int = 0
    """How many members all pools of the organization have beyond its limit on pool members."""
    canary: int | None = None
    """The percentage that the new generation gets while a canary runs; None while none runs."""

    @property
    def new_target(self) -> int:
        """How many members the new generation is to have."""
        return self.target if self.canary is None else min(share_of(self.canary, self.desired), self.target)

    @property
    def old_target(self) -> int:
        """How many members the old generations keep while a canary runs: what the new one leaves, and at least one,
        since they serve the other claims."""
        if self.canary is None or not self.target:
            return 0
        return max(self.target - self.new_target, 1)

    @property
    def total(self) -> int:
        return self.new.total + sum(one.total for one in self.old)

    @property
    def limit(self) -> int:
        """The most members that there may be. What a surge has added goes first when a limit on pool members binds."""
        surged = self.target + self.policy.surge(self.desired)
        return min(surged, max(self.total - self.excess, self.target)) if self.excess else surged

    @property
    def ready(self) -> int:
        return self.new.ready + sum(one.ready for one in self.old)

    @property
    def is_whole(self) -> bool:
        """Whether the new generation has all its members ready, so that paused ones of older generations go, too.
        Once only these are left, what claims have taken lately counts: else they stay while claims never pause."""
        made = self.new.ready if any(one.total for one in self.old) else self.new.ready + self.lately
        return not self.stands and self.canary is None and made >= self.target

    @property
    def stands(self) -> bool:
        """Whether the old generations stay as they are, since the new one may not grow."""
        return self.paused or self.new.held


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass does to the generations of a pool, in numbers by preset."""

    create: int = 0
    create_for: UUID | None = None
    """The generation that gets the creations; None when there are none."""
    remove: Mapping[UUID, int] = field(default_factory=dict)
    """Fresh members to delete: those that no claim can get first, then the oldest."""
    cancel: Mapping[UUID, int] = field(default_factory=dict)
    """Creations of old generations to cancel, which have not begun."""


def plan_step(pool: PoolInRollout, *, as_it_stands: bool = False) -> Step:
    """Plan what one pass does to the generations of a pool.

    The new generation grows to the target. While it may not, since the rollout is paused or its creations are held,
    the old ones stay, and what claims take is made anew from the newest old generation whose creations are not held.
    While a canary runs, it grows to its share, and the old ones keep the rest.

    Args:
        as_it_stands: Whether to count creations as if nothing is removed or cancelled, which is what a pass may do
            whose deletions have not taken effect.
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
    """Count the fresh members of each generation that go, without zeros."""
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
    """Count the creations of each old generation that are cancelled, without zeros."""
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
