"""Applies limits: on a preset's concurrent creations and deletions, and on an organization's pool members."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.planning.concurrency import Due, max_concurrent_of, share_with_others
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.pool_generations import group_generations
from prebuilds.planning.snapshot import GlobalSnapshot, Instant, MemberShare, PoolCounts, Preset, PresetCounts
from prebuilds.planning.state import PoolState, pool_state


@dataclass(frozen=True, slots=True)
class AllowedWork:
    """The due work of one pool that may begin now."""

    creates: int
    deletes: int
    held: Held | None
    """The first hold on creations, except for capacity; None if nothing holds them."""
    moves: int = 0
    """Number of pauses and resumes, which no limit holds."""


def allow_work(
    preset: Preset, state: PoolState, deletes: int, others: Sequence[tuple[Preset, Due]] = ()
) -> AllowedWork:
    """Return the work of one pool that may begin now, before the capacity is shared.

    Args:
        deletes: Deletions that are due.
        others: The pool's other generations, if its `max_concurrent` counts them.
    """
    due, held = _find_creations(state)
    limit = max_concurrent_of(preset, [other for other, _ in others])
    if limit is None:
        return AllowedWork(due, deletes, held, state.standby.moves)
    own = Due(state.starting, state.deleting, due, deletes)
    creates, deletes = share_with_others(limit, own, [work for _, work in others])
    held = Held(Hold.MAX_CONCURRENT) if creates < due else held
    return AllowedWork(creates, deletes, held, state.standby.moves)


def find_due(item: PresetCounts, at: Instant, share: MemberShare | None) -> Due:
    """Return the due work of a pool, before `max_concurrent` is applied.

    Args:
        share: The pool's share of the organization's limit on pool members; None for no limit.
    """
    state = pool_state(item.preset, item.counts, item.history, at, share)
    return Due(state.starting, state.deleting, _find_creations(state)[0], count_deletions(item.counts, state))


def count_deletions(counts: PoolCounts, state: PoolState) -> int:
    """Count the deletions that are due in a pool, as `deletions` names them."""
    if not state.active:
        return counts.running + counts.paused + counts.evidence_due
    paused = counts.paused_expired + state.standby.surplus
    return counts.expired + counts.unhealthy + state.extraneous + paused + counts.evidence_due


def _find_creations(state: PoolState) -> tuple[int, Held | None]:
    """Return how many creations are due and not held, and what holds the others."""
    if state.held is not None:
        return 0, state.held
    if state.room is not None and state.missing > state.room:
        return state.room, Held(Hold.POOL_MEMBERS)
    return state.missing, None


@dataclass(frozen=True, slots=True)
class PoolWant:
    """One pool's demand on a limit on pool members."""

    floor: int
    """Members that the pool gets before others get more than their floor (`PoolState.least`)."""
    wanted: int
    """All members that it should have, including those for waiting claims."""
    members: int
    """Members that it has and that are neither expired nor unhealthy."""
    waiting: bool = False
    """Whether a claim waits for a prebuild of this pool."""


def share_members(wants: Sequence[PoolWant], limit: int, rotation: int) -> list[int]:
    """Divide a limit on pool members among the pools of one organization.

    Floors come first. If the limit is below their sum, each pool gets a part in proportion to its floor. Otherwise the
    rest raises the lowest pools to one level. Members left over by rounding go one each to pools with waiting claims,
    then to pools that have such a member already, so that none is deleted for another pool's turn, then by rotation.

    Args:
        wants: One for each pool, in the same order in every pass.
        rotation: A number that grows by one with each pass.
    Returns:
        The maximum number of members of each pool, in the order of *wants*. Their sum is the limit, or the sum of what
        the pools want if that is less.
    """
    floors = [min(want.floor, want.wanted) for want in wants]
    if sum(want.wanted for want in wants) <= limit:
        return [want.wanted for want in wants]
    if (total := sum(floors)) > limit:
        shares = [limit * floor // total for floor in floors]
        may_grow = [n for n, floor in enumerate(floors) if shares[n] < floor]
    else:
        level = _highest_level(wants, floors, limit)
        shares = _at_level(wants, floors, level)
        may_grow = [n for n, want in enumerate(wants) if shares[n] == level < want.wanted]
    left = limit - sum(shares)
    first = rotation * left % len(may_grow) if may_grow else 0
    turns = {n: turn for turn, n in enumerate(may_grow[first:] + may_grow[:first])}

    def precedence(n: int) -> tuple[bool, bool, int]:
        has_it = wants[n].members > shares[n]
        return not wants[n].waiting, not has_it, n if has_it else turns[n]

    for n in sorted(may_grow, key=precedence)[:left]:
        shares[n] += 1
    return shares


def _highest_level(wants: Sequence[PoolWant], floors: Sequence[int], limit: int) -> int:
    low, high = 0, limit
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if sum(_at_level(wants, floors, level)) <= limit else (low, level - 1)
    return low


def _at_level(wants: Sequence[PoolWant], floors: Sequence[int], level: int) -> list[int]:
    return [max(floor, min(level, want.wanted)) for want, floor in zip(wants, floors, strict=True)]


def member_shares(snapshot: GlobalSnapshot) -> dict[UUID, MemberShare]:
    """Return the share of each pool whose organization limits pool members, by preset.

    A pool with several generations has one share for all of them, under the new generation's preset.
    """
    limited: dict[UUID | None, list[PresetCounts]] = defaultdict(list)
    for item in snapshot.presets:
        if item.preset.pool_members is not None:
            limited[item.preset.organization_id].append(item)
    shares: dict[UUID, MemberShare] = {}
    for items in limited.values():
        limit = items[0].preset.pool_members or 0
        room = limit - sum(item.counts.members for item in items)
        pools = {item.preset.id: pool for pool in group_generations(items) for item in pool}
        wants = [_want(item, pools.get(item.preset.id), snapshot) for item in items]
        most = share_members(wants, limit, snapshot.passes)
        shares |= {item.preset.id: MemberShare(part, room) for item, part in zip(items, most, strict=True)}
    return shares


def _want(item: PresetCounts, pool: Sequence[PresetCounts] | None, snapshot: GlobalSnapshot) -> PoolWant:
    """Return a preset's demand on the limit.

    Args:
        pool: The generations of its pool, the new one first; None if it has only this one.
    """
    preset = item.preset
    if pool is not None and pool[0] is not item:
        return PoolWant(0, 0, 0)
    members = sum(one.counts.usable_members for one in pool or [item])
    state = pool_state(preset, item.counts, item.history, snapshot)
    wanted = state.target + (preset.desired_paused if preset.active else 0)
    # The other presets get the share that a held preset cannot use. While the new generation of a rollout is held, the
    # old ones stay, and claimed members are replaced in them.
    if pool is None and state.held is not None and state.held.reason.lasts:
        wanted = min(wanted, members)
    return PoolWant(min(state.least, wanted), wanted, members, waiting=preset.active and preset.waiting > 0)
