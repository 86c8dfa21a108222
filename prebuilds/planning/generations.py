"""Collects the generations of a pool for `plan_step`: from counts for a whole pass, and from rows for one pool.

Both give the same numbers, by the same functions; the rows also say which members these numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.planning.concurrency import share_concurrent
from prebuilds.planning.holds import Held, Hold, creation_hold
from prebuilds.planning.limits import AllowedWork
from prebuilds.planning.pool_generations import group_generations
from prebuilds.planning.pool_in_rollout import Generation, PoolInRollout
from prebuilds.planning.rollout_steps import Step
from prebuilds.planning.rollouts import RolloutState
from prebuilds.planning.snapshot import (
    GenerationRows,
    Instant,
    MemberShare,
    Prebuild,
    Preset,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
    is_expired,
    is_unhealthy,
)
from prebuilds.planning.state import PoolState, pool_state


@dataclass(frozen=True, slots=True)
class Generations:
    """A pool whose generations are planned together."""

    new: PresetCounts
    old: Sequence[PresetCounts]
    """The old generations: first the one that the rollout began from, then the others, newest first."""
    state: PoolState
    """The figures of the new generation."""
    pool: PoolInRollout
    share: MemberShare | None
    """The pool's share of the organization's limit on pool members; None for no limit."""

    @property
    def all(self) -> list[PresetCounts]:
        return [self.new, *self.old]


def find_generations(
    presets: Iterable[PresetCounts], at: Instant, shares: Mapping[UUID, MemberShare]
) -> dict[UUID, Generations]:
    """Return the pools with several generations, each under the preset id of each of its generations.

    Args:
        shares: The shares of organizations' limits on pool members, by preset.
    """
    found: dict[UUID, Generations] = {}
    for new, *old in group_generations(presets):
        generations = _bring_together(new, old, at, shares.get(new.preset.id))
        found |= dict.fromkeys((item.preset.id for item in (new, *old)), generations)
    return found


def generations_of(snapshot: PresetSnapshot) -> Generations | None:
    """Return the generations of one pool; None if it has only one."""
    if not snapshot.others:
        return None
    items = [
        PresetCounts(one.preset, count_prebuilds(one.preset, one.prebuilds, snapshot), one.history, snapshot.lately)
        for one in rows_of_generations(snapshot)
    ]
    new = next((item.preset.id for item in items if item.preset.active), snapshot.preset.id)
    shares = {} if snapshot.share is None else {new: snapshot.share}
    return find_generations(items, snapshot, shares).get(snapshot.preset.id)


def allow_step(generations: Generations, step: Step, deletes: int) -> AllowedWork:
    """Return the part of a step that may begin now, before the capacity is shared.

    Args:
        deletes: Deletions that are due in all generations.
    """
    creates, held, share = step.create, generations.state.held, generations.share
    if share is not None and creates > max(share.room, 0):
        creates, held = max(share.room, 0), held or Held(Hold.POOL_MEMBERS)
    every = [one.counts for one in generations.all]
    allowed, deletes = share_concurrent(
        generations.new.preset.max_concurrent,
        starting=sum(counts.starting for counts in every),
        deleting=sum(counts.deleting for counts in every),
        creates=creates,
        deletes=deletes,
    )
    held = held or (Held(Hold.MAX_CONCURRENT) if allowed < creates else None)
    return AllowedWork(allowed, deletes, held, step.moves)


def rows_of_generations(snapshot: PresetSnapshot) -> list[GenerationRows]:
    """Return the rows of all generations in a snapshot, in no particular order."""
    return [GenerationRows(snapshot.preset, snapshot.prebuilds, snapshot.history), *snapshot.others]


def members_to_remove(one: GenerationRows, count: int, at: Instant) -> list[UUID]:
    """Return *count* fresh members of a generation: those that no claim can get first, then the oldest."""
    return [p.id for p in sorted(_fresh(one, at), key=lambda p: (p.claimable, *by_age(p)))[:count]]


def members_to_pause(one: GenerationRows, count: int, at: Instant) -> list[UUID]:
    """Return *count* ready members of a generation, the newest first."""
    ready = sorted((p for p in _fresh(one, at) if p.claimable), key=by_age, reverse=True)
    return [p.id for p in ready[:count]]


def idle_members(one: GenerationRows, at: Instant) -> list[UUID]:
    """Return the paused members of a generation that are not expired, the oldest first."""
    unexpired = [p for p in one.prebuilds if p.paused and not is_expired(one.preset, p.created_at, at.taken_at)]
    return [p.id for p in sorted(unexpired, key=by_age)]


def _fresh(one: GenerationRows, at: Instant) -> list[Prebuild]:
    valid = [p for p in one.prebuilds if p.running and not is_unhealthy(p)]
    return [p for p in valid if not is_expired(one.preset, p.created_at, at.taken_at)]


def by_age(prebuild: Prebuild) -> tuple[object, object]:
    """Sort key: the oldest first, then by id."""
    return prebuild.created_at, prebuild.id


def _bring_together(
    new: PresetCounts, others: Sequence[PresetCounts], at: Instant, share: MemberShare | None
) -> Generations:
    old = sorted(others, key=lambda item: (item.preset.rolled_from, item.preset.version), reverse=True)
    state = pool_state(new.preset, new.counts, new.history, at, share)
    most = state.target if share is None else share.most
    rollout = new.preset.rollout
    assert rollout is not None  # noqa: S101 - `is_led` says so
    pool = PoolInRollout(
        desired=min(state.desired, most),
        target=min(state.target, most),
        new=_generation(new, held=state.held is not None),
        old=[_generation(item, held=_is_left(item.preset) or _is_held(item, at, state, new.preset)) for item in old],
        policy=rollout.policy,
        paused=rollout.state is RolloutState.PAUSED,
        lately=new.lately,
        excess=0 if share is None else max(-share.room, 0),
        canary=_canary(new.preset, old),
        standby=state.standby.desired,
        cramped=share is not None and share.room <= 0,
    )
    return Generations(new, old, state, pool, share)


def _canary(new: Preset, old: Sequence[PresetCounts]) -> int | None:
    """Return the percentage that a canary gives the new generation; None without a running canary, and if the version
    that the rollout began from has no such pool."""
    rollout = new.rollout
    if rollout is None or not rollout.canary or rollout.policy.canary is None:
        return None
    return rollout.policy.canary.percent if any(item.preset.rolled_from for item in old) else None


def _is_left(preset: Preset) -> bool:
    """Return whether a preset's version failed as a canary and is being left, so that no prebuild of it is created."""
    return preset.rolled_from and preset.rollout is not None and preset.rollout.leaves_failed


def _is_held(item: PresetCounts, at: Instant, state: PoolState, new: Preset) -> bool:
    return creation_hold(item.history, at, desired=state.desired, base=new.base_instances) is not None


def _generation(item: PresetCounts, *, held: bool) -> Generation:
    counts = item.counts
    return Generation(
        preset_id=item.preset.id,
        fresh=counts.fresh,
        ready=min(counts.eligible, counts.fresh),
        starting=counts.starting,
        pending=counts.creations_pending,
        held=held,
        idle=counts.unexpired_paused,
        pausing=counts.pausing,
        resuming=counts.resuming,
        moves_failed=counts.moves_failed,
        resumes_failed=counts.resumes_failed,
    )
