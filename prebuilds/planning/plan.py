"""Plans one pass over one preset: takes a snapshot, and returns ids to create, delete and cancel.

While a rollout is open, the plan covers all generations of the preset's pool, whichever of them is reconciled.

A plan is a proposal. The pool changes after the snapshot, so the code that carries it out plans again behind the
preset's lock and does what both plans have. A plan names ids and not counts, so that carrying it out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from prebuilds.planning.generations import (
    allow_step,
    by_age,
    generations_of,
    idle_members,
    members_to_pause,
    members_to_remove,
    rows_of_generations,
)
from prebuilds.planning.holds import Hold
from prebuilds.planning.limits import allow_work, find_due
from prebuilds.planning.rollout_steps import plan_step
from prebuilds.planning.snapshot import (
    Prebuild,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
    is_evidence_due,
    is_expired,
    is_unhealthy,
)
from prebuilds.planning.state import PoolState, pool_state

CREATES_PER_PASS_MAX = 100
"""Creations of one preset per pass. A pool of thousands fills over several passes, so that no transaction is long."""
DELETES_PER_PASS_MAX = 100
MOVES_PER_PASS_MAX = 100
"""Maximum number of pauses of one preset per pass, and of resumes."""
CANCELS_PER_PASS_MAX = 500
"""More cancellations than deletions fit in a pass, since a cancellation is two rows of one statement."""


class Reason(StrEnum):
    """Why a prebuild is deleted."""

    EXPIRED = "expired"
    UNHEALTHY = "unhealthy"
    EXTRANEOUS = "extraneous"
    POOL_MEMBERS = "pool_members"
    """The prebuild is within the target, but beyond the preset's share of the organization's limit."""
    REPLACED = "replaced"
    """The prebuild belongs to an older version, and a rollout replaces it."""
    INACTIVE = "inactive"
    EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class ReconcilePlan:
    """What to do about one preset: ids in the order in which to act.

    Deletions come as `deletions` orders them, cancellations oldest first, creations by ordinal.
    """

    pass_number: int
    preset_id: UUID
    create: list[UUID] = field(default_factory=list)
    delete: list[UUID] = field(default_factory=list)
    cancel: list[UUID] = field(default_factory=list)
    """Workspaces whose creation has not begun."""
    resume: list[UUID] = field(default_factory=list)
    """Paused prebuilds to resume, oldest first."""
    pause: list[UUID] = field(default_factory=list)
    """Ready prebuilds to pause, newest first."""
    held: str | None = None
    """The `Hold` that withholds creation; None when none does."""
    held_until: datetime | None = None
    """When the hold ends by itself; None when it does not, or there is no hold."""
    more: bool = False
    """Whether a limit of this module has cut the plan short, so that another pass has work at once."""
    create_for: UUID | None = None
    """The preset that gets the creations, if that is another generation of the pool; None for the planned preset."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.create or self.delete or self.cancel or self.resume or self.pause)


def plan_preset(
    snapshot: PresetSnapshot, pass_number: int, pending_max: int | None = None, *, as_it_stands: bool = False
) -> ReconcilePlan:
    """Plan one pass over one preset's pool.

    Args:
        snapshot: All rows of one pool, in any order, read in one transaction.
        pass_number: A number from the database's sequence. It never repeats, and is part of every new id.
        pending_max: Maximum number of pending creations of this preset; None for no limit.
        as_it_stands: For a pool with several generations: plan creations as if the plan's deletions and cancellations
            had no effect.
    Returns:
        The ids to create, delete, cancel, pause and resume; none while paused. The same arguments give the same plan.
    Source: docs/architecture.md, "Reconciling".
    """
    preset = snapshot.preset
    if snapshot.paused:
        return ReconcilePlan(pass_number, preset.id, held=Hold.PAUSED)
    if generations_of(snapshot) is not None:
        return _plan_generations(snapshot, pass_number, pending_max, as_it_stands=as_it_stands)
    due = list(deletions(snapshot))
    state = state_of(snapshot)
    others = [
        (one.preset, find_due(counted, snapshot, snapshot.share if one.preset.active else None))
        for one in snapshot.others
        for counted in [PresetCounts(one.preset, count_prebuilds(one.preset, one.prebuilds, snapshot), one.history)]
    ]
    allowed = allow_work(preset, state, len(due), others)
    delete = due[: allowed.deletes]
    if not preset.active:
        cancel = [p.id for p in _oldest_first(snapshot) if p.creation_pending]
        return ReconcilePlan(
            pass_number,
            preset.id,
            delete=delete[:DELETES_PER_PASS_MAX],
            cancel=cancel[:CANCELS_PER_PASS_MAX],
            # Cancellations make room for deletions, but no build ends that would nudge the preset again.
            more=len(delete) > DELETES_PER_PASS_MAX
            or len(cancel) > CANCELS_PER_PASS_MAX
            or bool(cancel and len(delete) < len(due)),
        )
    create, held, until = allowed.creates, None, None
    if allowed.held is not None:
        held, until = allowed.held.reason, allowed.held.until
    if pending_max is not None and create > (room := _room(snapshot, pending_max)):
        create, held = room, Hold.CAPACITY
    return ReconcilePlan(
        pass_number,
        preset.id,
        create=[
            prebuild_id(snapshot.epoch, preset.id, pass_number, n) for n in range(min(create, CREATES_PER_PASS_MAX))
        ],
        delete=delete[:DELETES_PER_PASS_MAX],
        resume=_idle(snapshot)[: min(state.standby.resumes, MOVES_PER_PASS_MAX)],
        pause=_fresh(snapshot)[::-1][: min(state.standby.pauses, MOVES_PER_PASS_MAX)],
        held=held,
        held_until=until,
        more=create > CREATES_PER_PASS_MAX
        or len(delete) > DELETES_PER_PASS_MAX
        or max(state.standby.resumes, state.standby.pauses) > MOVES_PER_PASS_MAX,
    )


def state_of(snapshot: PresetSnapshot) -> PoolState:
    """Return the figures of the snapshot's pool."""
    counts = count_prebuilds(snapshot.preset, snapshot.prebuilds, snapshot)
    return pool_state(snapshot.preset, counts, snapshot.history, snapshot, snapshot.share)


def deletions(snapshot: PresetSnapshot) -> dict[UUID, Reason]:
    """Return every prebuild to delete with the reason, in the order in which to delete.

    For an active preset, expired and unhealthy prebuilds come first, then the oldest ones beyond the target, then the
    oldest paused ones beyond the standby. For an inactive preset, all running and paused prebuilds come first. Evidence
    that has been kept long enough comes last.

    For a pool with several generations, the deletions of all of them are returned.
    """
    if generations_of(snapshot) is not None:
        return _deletions_of_generations(snapshot)
    preset, oldest_first = snapshot.preset, _oldest_first(snapshot)
    members = [p for p in oldest_first if p.running or p.paused]
    due: dict[UUID, Reason] = {}
    if preset.active:
        for prebuild in members:
            if is_expired(preset, prebuild.created_at, snapshot.taken_at):
                due[prebuild.id] = Reason.EXPIRED
            elif is_unhealthy(prebuild):
                due[prebuild.id] = Reason.UNHEALTHY
        state, fresh = state_of(snapshot), _fresh(snapshot)
        due |= dict.fromkeys(fresh[: state.extraneous - state.surplus], Reason.EXTRANEOUS)
        due |= dict.fromkeys(fresh[state.extraneous - state.surplus : state.extraneous], Reason.POOL_MEMBERS)
        stay_paused = _idle(snapshot)[state.standby.resumes :]
        due |= dict.fromkeys(stay_paused[: state.standby.surplus], Reason.EXTRANEOUS)
    else:
        due |= {p.id: Reason.INACTIVE for p in members}
    return due | {p.id: Reason.EVIDENCE for p in oldest_first if is_evidence_due(p, snapshot.taken_at, snapshot.rules)}


def prebuild_id(epoch: UUID, preset_id: UUID, pass_number: int, ordinal: int) -> UUID:
    """Return the id of the *ordinal*th workspace that a pass creates. Planning it twice gives the same id.

    Args:
        epoch: The database's epoch. No other deployment and no earlier life of this database has the same one, so the
            ids differ from theirs even where pass numbers are the same.
    """
    return uuid5(epoch, f"{preset_id}/{pass_number}/{ordinal}")


def prebuild_name(workspace_id: UUID) -> str:
    """Return a prebuild's name: a valid `Name` that is unique among the prebuilds user's live workspaces."""
    return f"prebuild-{workspace_id.hex[:16]}"


def _plan_generations(
    snapshot: PresetSnapshot, pass_number: int, pending_max: int | None, *, as_it_stands: bool
) -> ReconcilePlan:
    """Plan all generations of a pool."""
    generations = generations_of(snapshot)
    assert generations is not None  # noqa: S101 - the caller has checked it
    step = plan_step(generations.pool, as_it_stands=as_it_stands)
    due = list(_deletions_of_generations(snapshot))
    allowed = allow_step(generations, step, len(due))
    delete = due[: allowed.deletes]
    rows = rows_of_generations(snapshot)
    cancel = [p.id for one in rows for p in _youngest_pending(one.prebuilds)[: step.cancel.get(one.preset.id, 0)]]
    resume = [i for one in rows for i in idle_members(one, snapshot)[: step.resume.get(one.preset.id, 0)]]
    pause = [i for one in rows for i in members_to_pause(one, step.pause.get(one.preset.id, 0), snapshot)]
    pause = [i for i in pause if i not in due]
    create, held = allowed.creates, allowed.held
    reason, until = (None, None) if held is None else (held.reason, held.until)
    if pending_max is not None:
        pending = sum(one.pending for one in (generations.pool.new, *generations.pool.old))
        room = max(pending_max - pending, 0)
        if room < create:
            create, reason = room, Hold.CAPACITY
    create_for = step.create_for or generations.new.preset.id
    new = [prebuild_id(snapshot.epoch, create_for, pass_number, n) for n in range(min(create, CREATES_PER_PASS_MAX))]
    return ReconcilePlan(
        pass_number,
        snapshot.preset.id,
        create=new,
        delete=delete[:DELETES_PER_PASS_MAX],
        cancel=cancel[:CANCELS_PER_PASS_MAX],
        resume=resume[:MOVES_PER_PASS_MAX],
        pause=pause[:MOVES_PER_PASS_MAX],
        held=reason,
        held_until=until,
        # Cancellations make room for more, but no build ends that would nudge the preset again.
        more=create > CREATES_PER_PASS_MAX
        or max(len(resume), len(pause)) > MOVES_PER_PASS_MAX
        or len(delete) > DELETES_PER_PASS_MAX
        or len(cancel) > CANCELS_PER_PASS_MAX
        or bool(cancel and (len(delete) < len(due) or create < step.create)),
        create_for=create_for if create_for != snapshot.preset.id else None,
    )


def _deletions_of_generations(snapshot: PresetSnapshot) -> dict[UUID, Reason]:
    generations = generations_of(snapshot)
    assert generations is not None  # noqa: S101 - the caller has checked it
    step, new = plan_step(generations.pool), generations.new.preset.id
    rows = rows_of_generations(snapshot)
    due: dict[UUID, Reason] = {}
    for one in rows:
        for prebuild in sorted(one.prebuilds, key=by_age):
            if (prebuild.running or prebuild.paused) and is_expired(one.preset, prebuild.created_at, snapshot.taken_at):
                due[prebuild.id] = Reason.EXPIRED
            elif is_unhealthy(prebuild):
                due[prebuild.id] = Reason.UNHEALTHY
    for one in rows:
        reason = Reason.EXTRANEOUS if one.preset.id == new else Reason.REPLACED
        due |= dict.fromkeys(members_to_remove(one, step.remove.get(one.preset.id, 0), snapshot), reason)
        stay_paused = idle_members(one, snapshot)[step.resume.get(one.preset.id, 0) :]
        due |= dict.fromkeys(stay_paused[: step.drop.get(one.preset.id, 0)], reason)
    every = sorted((p for one in rows for p in one.prebuilds), key=by_age)
    return due | {p.id: Reason.EVIDENCE for p in every if is_evidence_due(p, snapshot.taken_at, snapshot.rules)}


def _youngest_pending(prebuilds: list[Prebuild]) -> list[Prebuild]:
    return sorted((p for p in prebuilds if p.creation_pending), key=by_age, reverse=True)


def _oldest_first(snapshot: PresetSnapshot) -> list[Prebuild]:
    return sorted(snapshot.prebuilds, key=by_age)


def _fresh(snapshot: PresetSnapshot) -> list[UUID]:
    """Return the running prebuilds that are neither expired nor unhealthy, oldest first."""
    return [p.id for p in _unexpired(snapshot) if p.running and not is_unhealthy(p)]


def _idle(snapshot: PresetSnapshot) -> list[UUID]:
    """Return the paused prebuilds that are not expired, oldest first."""
    return [p.id for p in _unexpired(snapshot) if p.paused]


def _unexpired(snapshot: PresetSnapshot) -> list[Prebuild]:
    preset, now = snapshot.preset, snapshot.taken_at
    return [p for p in _oldest_first(snapshot) if not is_expired(preset, p.created_at, now)]


def _room(snapshot: PresetSnapshot, pending_max: int) -> int:
    """Return how many more creations may be pending."""
    return max(pending_max - sum(p.creation_pending for p in snapshot.prebuilds), 0)
