"""What one pass does about one preset: a snapshot in, ids to create, delete and cancel out.

A plan is a proposal. The pool moves on after the snapshot, so whoever carries it out plans again behind the preset's
lock and does what both plans have. It names ids and not counts, so that carrying it out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from prebuilds.planning.holds import Hold
from prebuilds.planning.snapshot import (
    Prebuild,
    PresetSnapshot,
    count_prebuilds,
    is_evidence_due,
    is_expired,
    is_unhealthy,
)
from prebuilds.planning.state import PoolState, pool_state

CREATES_PER_PASS_MAX = 100
"""Of one preset. A pool of thousands fills over several passes; none of them holds its transaction for long."""
DELETES_PER_PASS_MAX = 100
CANCELS_PER_PASS_MAX = 500
"""A cancellation is two rows of one statement, so more fit in a pass."""


class Reason(StrEnum):
    """Why a prebuild is deleted."""

    EXPIRED = "expired"
    UNHEALTHY = "unhealthy"
    EXTRANEOUS = "extraneous"
    INACTIVE = "inactive"
    EVIDENCE = "evidence"


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
    held_until: datetime | None = None
    more: bool = False
    """A bound has cut it short: there is more of the same to do at once."""

    @property
    def empty(self) -> bool:
        return not (self.create or self.delete or self.cancel)


def plan_preset(snapshot: PresetSnapshot, pass_number: int, pending_max: int | None = None) -> ReconcilePlan:
    """Plan one pass over one preset's pool.

    Args:
        snapshot: All rows of one pool, in any order, read in one transaction.
        pass_number: From the database's sequence: never repeats, and is part of every new id.
        pending_max: This preset's share of the capacity; None for no limit.
    Returns:
        What to create, delete and cancel; nothing while paused. The same snapshot gives the same plan.
    Source: docs/architecture.md, "Reconciling".
    """
    preset = snapshot.preset
    if snapshot.paused:
        return ReconcilePlan(pass_number, preset.id, held=Hold.PAUSED)
    delete = list(deletions(snapshot))
    if not preset.active:
        cancel = [p.id for p in _oldest_first(snapshot) if p.creation_pending]
        return ReconcilePlan(
            pass_number,
            preset.id,
            delete=delete[:DELETES_PER_PASS_MAX],
            cancel=cancel[:CANCELS_PER_PASS_MAX],
            more=len(delete) > DELETES_PER_PASS_MAX or len(cancel) > CANCELS_PER_PASS_MAX,
        )
    state = state_of(snapshot)
    create, held, until = state.missing, None, None
    if state.held is not None:
        create, held, until = 0, state.held.reason, state.held.until
    elif pending_max is not None and create > (room := _room(snapshot, pending_max)):
        create, held = room, Hold.CAPACITY
    return ReconcilePlan(
        pass_number,
        preset.id,
        create=[
            prebuild_id(snapshot.epoch, preset.id, pass_number, n) for n in range(min(create, CREATES_PER_PASS_MAX))
        ],
        delete=delete[:DELETES_PER_PASS_MAX],
        held=held,
        held_until=until,
        more=create > CREATES_PER_PASS_MAX or len(delete) > DELETES_PER_PASS_MAX,
    )


def state_of(snapshot: PresetSnapshot) -> PoolState:
    counts = count_prebuilds(snapshot.preset, snapshot.prebuilds, snapshot)
    return pool_state(snapshot.preset, counts, snapshot.history, snapshot)


def deletions(snapshot: PresetSnapshot) -> dict[UUID, Reason]:
    """Every prebuild to delete, and why: what nobody may get any more, then the oldest beyond the target, then what
    has served as evidence; of an inactive preset all that run."""
    preset, oldest_first = snapshot.preset, _oldest_first(snapshot)
    running = [p for p in oldest_first if p.running]
    due: dict[UUID, Reason] = {}
    if preset.active:
        for prebuild in running:
            if is_expired(preset, prebuild.created_at, snapshot.taken_at):
                due[prebuild.id] = Reason.EXPIRED
            elif is_unhealthy(prebuild):
                due[prebuild.id] = Reason.UNHEALTHY
        fresh = [p.id for p in running if p.id not in due]
        due |= dict.fromkeys(fresh[: state_of(snapshot).extraneous], Reason.EXTRANEOUS)
    else:
        due |= {p.id: Reason.INACTIVE for p in running}
    return due | {p.id: Reason.EVIDENCE for p in oldest_first if is_evidence_due(p, snapshot.taken_at, snapshot.rules)}


def prebuild_id(epoch: UUID, preset_id: UUID, pass_number: int, ordinal: int) -> UUID:
    """The id of the *ordinal*th workspace that a pass creates: planned twice, it is the same one.

    Args:
        epoch: The database's. No other deployment, and no earlier life of this database, has it; so no id of theirs
            is ever made here, whatever their passes are numbered.
    """
    return uuid5(epoch, f"{preset_id}/{pass_number}/{ordinal}")


def prebuild_name(workspace_id: UUID) -> str:
    """Unique among the prebuilds user's live workspaces, and a name by our rule."""
    return f"prebuild-{workspace_id.hex[:16]}"


def _oldest_first(snapshot: PresetSnapshot) -> list[Prebuild]:
    return sorted(snapshot.prebuilds, key=lambda p: (p.created_at, p.id))


def _room(snapshot: PresetSnapshot, pending_max: int) -> int:
    return max(pending_max - sum(p.creation_pending for p in snapshot.prebuilds), 0)
