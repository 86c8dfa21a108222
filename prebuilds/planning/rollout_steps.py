"""Plans the generations of a pool together, while a new version of its template replaces an older one.

A pool belongs to a preset's name. The preset of each version that has prebuilds is one generation of the pool: the
active version's is the new one, all others are old. As with a Deployment of Kubernetes, new members are made first, up
to `max_surge` more than the pool's target, and old ones go only while more than the desired count less
`max_unavailable` are ready.

Claims take members while a rollout runs, and their replacements are ready one lead time later. When old members are
removed, members that were claimed within the last lead time count as ready. Otherwise a pool with constant claims would
never be replaced.

Paused members come last (`rollout_standby`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from prebuilds.planning.pool_in_rollout import PoolInRollout
from prebuilds.planning.rollout_standby import plan_moves


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
    resume: Mapping[UUID, int] = field(default_factory=dict)
    """Paused members to resume, the oldest."""
    pause: Mapping[UUID, int] = field(default_factory=dict)
    """Ready members to pause, the newest."""
    drop: Mapping[UUID, int] = field(default_factory=dict)
    """Paused members to delete, the oldest of those that stay paused."""

    @property
    def moves(self) -> int:
        """Number of members to pause or resume."""
        return sum(self.resume.values()) + sum(self.pause.values())


def plan_step(pool: PoolInRollout, *, as_it_stands: bool = False) -> Step:
    """Plan what one pass does to the generations of a pool.

    The new generation grows to the target. While it may not grow, because the rollout is paused or its creations are
    held, the old generations stay, and claimed members are replaced in the newest old generation whose creations are
    not held. While a canary runs, the new generation grows to its share, and the old ones keep the rest.

    Args:
        as_it_stands: Count creations as if nothing is removed or cancelled. A pass needs this if its deletions have not
            taken effect.
    """
    cancel, moves = _plan_cancellations(pool), plan_moves(pool)
    remove = _plan_removals(pool, canceled=sum(cancel.values()), paused=moves.pause)
    total = pool.total + sum(moves.resume.values())
    total -= 0 if as_it_stands else sum(remove.values()) + sum(cancel.values())
    refill = max(pool.growth, -moves.resumable)
    old = next((one for one in pool.old if not one.held), None)
    if pool.stands:
        create_for = old or (None if pool.new.held else pool.new)
        create = max(pool.target + refill - total, 0)
    else:
        create_for = pool.new
        own_refill = refill if pool.canary is None else 0
        create = max(min(pool.new_target + own_refill - pool.new.total, pool.limit - total), 0)
        if not create and pool.canary is not None:
            create_for = old
            create = max(min(pool.old_target + refill - sum(one.total for one in pool.old), pool.limit - total), 0)
    step = Step(remove=remove, cancel=cancel, resume=moves.resume, pause=moves.pause, drop=moves.drop)
    if create_for is None or not create:
        return step
    return replace(step, create=create, create_for=create_for.preset_id)


def _plan_removals(pool: PoolInRollout, *, canceled: int, paused: Mapping[UUID, int]) -> dict[UUID, int]:
    """Count the fresh members to remove from each generation, without zeros.

    Args:
        paused: Number of ready members of each generation that this step pauses.
    """
    new = pool.new.preset_id
    found = {new: max(pool.new.fresh - paused.get(new, 0) - pool.target, 0)}
    ready = pool.ready - min(found[new], pool.new.ready) - sum(paused.values())
    spare = max(ready + pool.lately - (pool.desired - pool.policy.unavailable(pool.desired)), 0)
    if pool.stands:
        spare = min(spare, max(pool.total - canceled - pool.limit, 0))
    elif pool.canary is not None:
        surplus = sum(one.total for one in pool.old) - canceled - pool.old_target - pool.places
        spare = min(spare, max(surplus, 0))
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
        surplus = max(pool.total - pool.target - pool.places, 0)
    elif pool.canary is not None:
        surplus = max(sum(one.total for one in pool.old) - pool.old_target - pool.places, 0)
    for one in reversed(pool.old):
        found[one.preset_id] = min(one.pending, surplus)
        surplus -= found[one.preset_id]
    return {preset: count for preset, count in found.items() if count}
