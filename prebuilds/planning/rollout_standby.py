"""Plans the standby of a pool with several generations: which members are paused, resumed and deleted, and when.

- While the new generation replaces ready members, it makes none for the standby. Paused members of old generations stay
  as a reserve: claims get them when nothing else is there, as `serve_old` says.
- Once the new generation is in place, its standby is made as its ready members were: up to a surge more, and old ones
  go as new ones are there.
- While the old generations stand, since the rollout is paused or creations of the new version are held, and while a
  canary runs, the standby stays with them: they refill the pool from it, and are refilled themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from prebuilds.planning.pool_in_rollout import Generation, PoolInRollout


@dataclass(frozen=True, slots=True)
class Moves:
    """What one pass does to the standby: counts by preset, without zeros."""

    resume: Mapping[UUID, int] = field(default_factory=dict)
    pause: Mapping[UUID, int] = field(default_factory=dict)
    drop: Mapping[UUID, int] = field(default_factory=dict)
    """Paused members to delete."""
    resumable: int = 0
    """Number of missing members that need no creation, since paused ones are resumed, now or in a later pass."""


def plan_moves(pool: PoolInRollout) -> Moves:
    """Plan what one pass does to the standby."""
    if not (pool.standby or pool.idle):
        return Moves()
    keepers = pool.keepers
    target = pool.old_target if pool.canary is not None and not pool.stands else pool.target
    failed = any(one.resumes_failed for one in keepers)
    lacking = max(target - sum(one.fresh + one.resuming for one in keepers), 0)
    resumable = 0 if failed else min(lacking, sum(one.idle for one in keepers))
    resume = _share_out(min(resumable, max(pool.limit - pool.total, 0)), ((one, one.idle) for one in keepers))
    beyond = max(sum(one.ready for one in keepers) - target, 0)
    pause = _share_out(min(beyond, pool.places), ((one, one.ready) for one in keepers))
    return Moves(resume, pause, _plan_drops(pool, resume), resumable)


def _plan_drops(pool: PoolInRollout, resume: Mapping[UUID, int]) -> dict[UUID, int]:
    new = pool.new.idle - resume.get(pool.new.preset_id, 0)
    old = [(one, one.idle - resume.get(one.preset_id, 0)) for one in reversed(pool.old)]  # the oldest first
    reserve = pool.standby - new
    if pool.is_in_place:
        # Replacements of recently claimed members count, too. Otherwise the old ones would stay as long as claims go
        # on.
        made = new + pool.new.moves_failed + max(pool.new.ready + pool.lately - pool.target, 0)
        fewer = pool.policy.unavailable(pool.standby)
        reserve = pool.standby - (max(fewer, 1) if pool.cramped else fewer) - made
    surplus = max(sum(count for _, count in old) - max(reserve, 0), 0)
    return _share_out(surplus, old) | _share_out(max(new - pool.standby, 0), [(pool.new, new)])


def _share_out(count: int, generations: Iterable[tuple[Generation, int]]) -> dict[UUID, int]:
    """Divide *count* among the generations in their order, each up to its own number."""
    found: dict[UUID, int] = {}
    for one, most in generations:
        taken = min(count, most)
        count -= taken
        if taken:
            found[one.preset_id] = taken
    return found
