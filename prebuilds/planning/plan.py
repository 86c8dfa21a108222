"""What one pass does about one preset: a snapshot in, ids to create, delete and cancel out.

A plan is a proposal. The pool moves on after the snapshot, so whoever carries it out repeats each condition. It names
ids and not counts, so that carrying it out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid5

from prebuilds.payloads import NAMESPACE
from prebuilds.planning.snapshot import (
    GlobalSnapshot,
    PoolCounts,
    Prebuild,
    Preset,
    PresetSnapshot,
    count_prebuilds,
    is_expired,
)

CREATES_PER_PASS_MAX = 100
"""Of one preset. A pool of thousands fills over several passes; none of them holds its transaction for long."""
DELETES_PER_PASS_MAX = 100

HELD_PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool's figures as people read them."""

    active: bool
    desired: int
    target: int
    """Desired, and what waits for a prebuild on top."""
    actual: int
    expired: int
    eligible: int
    extraneous: int
    starting: int
    stopping: int
    deleting: int
    missing: int
    """How many creations would bring the pool to its target, were none held."""


@dataclass(frozen=True, slots=True)
class ReconcilePlan:
    """Ids in the order in which to act: oldest first for what exists, by ordinal for what is new."""

    pass_number: int
    preset_id: UUID
    create: list[UUID] = field(default_factory=list)
    delete: list[UUID] = field(default_factory=list)
    cancel: list[UUID] = field(default_factory=list)
    """Workspaces whose creation was not begun."""
    held: str | None = None
    """Why creation is withheld; None when it is not."""

    @property
    def empty(self) -> bool:
        return not (self.create or self.delete or self.cancel)


def desired_at(preset: Preset, at: datetime) -> int:
    """How many prebuilds a preset's pool should have at an instant; zero without a pool."""
    return preset.base_instances or 0


def pool_state(preset: Preset, counts: PoolCounts, taken_at: datetime) -> PoolState:
    """Derive a pool's figures. Source: docs/architecture.md, "Reconciling"."""
    desired = desired_at(preset, taken_at) if preset.active else 0
    target = desired
    fresh = counts.running - counts.expired
    return PoolState(
        active=preset.active,
        desired=desired,
        target=target,
        actual=counts.running,
        expired=counts.expired,
        eligible=counts.eligible if preset.active else 0,
        extraneous=max(fresh - target, 0) if preset.active else 0,
        starting=counts.starting,
        stopping=counts.stopping,
        deleting=counts.deleting,
        missing=max(target - fresh - counts.starting, 0) if preset.active else 0,
    )


def has_work(preset: Preset, counts: PoolCounts, taken_at: datetime) -> bool:
    """Whether `plan_preset` would have anything to do; decided from counts, for thousands of presets at once."""
    if not preset.active:
        return counts.running > 0 or counts.creations_pending > 0
    state = pool_state(preset, counts, taken_at)
    return state.expired > 0 or state.extraneous > 0 or state.missing > 0


def presets_with_work(snapshot: GlobalSnapshot) -> list[UUID]:
    """Ids of presets to reconcile: deletions before creations, else in the snapshot's order. None while paused."""
    if snapshot.paused:
        return []
    working = [p for p in snapshot.presets if has_work(p.preset, p.counts, snapshot.taken_at)]
    creating = {p.preset.id for p in working if pool_state(p.preset, p.counts, snapshot.taken_at).missing > 0}
    return [p.preset.id for p in sorted(working, key=lambda p: p.preset.id in creating)]


def plan_preset(snapshot: PresetSnapshot, pass_number: int) -> ReconcilePlan:
    """Plan one pass over one preset's pool.

    Args:
        snapshot: All rows of one pool, in any order, read in one transaction.
        pass_number: From the database's sequence: never repeats, and is part of every new id.
    Returns:
        What to create, delete and cancel; nothing while paused. The same snapshot gives the same plan.
    Source: docs/architecture.md, "Reconciling".
    """
    preset = snapshot.preset
    if snapshot.paused:
        return ReconcilePlan(pass_number, preset.id, held=HELD_PAUSED)
    oldest_first = sorted(snapshot.prebuilds, key=lambda p: (p.created_at, p.id))
    running = [p for p in oldest_first if p.running]
    if not preset.active:
        return ReconcilePlan(
            pass_number,
            preset.id,
            delete=_ids(running)[:DELETES_PER_PASS_MAX],
            cancel=[p.id for p in oldest_first if p.creation_pending],
        )
    state = pool_state(preset, count_prebuilds(preset, oldest_first, snapshot.taken_at), snapshot.taken_at)
    expired = [p for p in running if is_expired(preset, p.created_at, snapshot.taken_at)]
    fresh = [p for p in running if not is_expired(preset, p.created_at, snapshot.taken_at)]
    return ReconcilePlan(
        pass_number,
        preset.id,
        create=[prebuild_id(preset.id, pass_number, n) for n in range(min(state.missing, CREATES_PER_PASS_MAX))],
        delete=(_ids(expired) + _ids(fresh[: state.extraneous]))[:DELETES_PER_PASS_MAX],
    )


def prebuild_id(preset_id: UUID, pass_number: int, ordinal: int) -> UUID:
    """The id of the *ordinal*th workspace that a pass creates: planned twice, it is the same one."""
    return uuid5(NAMESPACE, f"{preset_id}/{pass_number}/{ordinal}")


def prebuild_name(workspace_id: UUID) -> str:
    """Unique among the prebuilds user's live workspaces, and a name by our rule."""
    return f"prebuild-{workspace_id.hex[:16]}"


def _ids(prebuilds: list[Prebuild]) -> list[UUID]:
    return [p.id for p in prebuilds]
