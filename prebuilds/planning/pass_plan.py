"""Plans a whole pass: which presets have work, in which order, and with which share of the capacity.

The plan is made from counts, for thousands of presets at once. `plan_preset` then decides each preset's ids from its
rows.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from prebuilds.planning.capacity import Demand, Shares, share_capacity
from prebuilds.planning.generations import Generations, allow_step, find_generations
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.limits import AllowedWork, allow_work, count_deletions, find_due, member_shares
from prebuilds.planning.plan import DELETES_PER_PASS_MAX
from prebuilds.planning.pool_generations import other_generations
from prebuilds.planning.rollout_steps import plan_step
from prebuilds.planning.snapshot import GlobalSnapshot, MemberShare, PresetCounts
from prebuilds.planning.state import PoolState, pool_state


@dataclass(frozen=True, slots=True)
class PresetDecision:
    """One preset of the snapshot, with its figures and what the pass has decided about it."""

    item: PresetCounts
    state: PoolState
    creates: int
    """How many creations are due and not withheld."""
    deletes: bool
    """Whether there is anything to delete or to cancel."""
    held: Held | None
    """The first hold on its creations, including capacity; None when there is none."""
    generations: Generations | None = None
    """All generations of its pool; None if it has only this one."""
    moves: int = 0
    """Number of pauses and resumes that are due."""

    @property
    def has_work(self) -> bool:
        """Whether the preset has anything to create, delete, cancel, pause or resume."""
        return self.deletes or self.creates > 0 or self.moves > 0


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a pass found out about a preset, recorded so that its operator can read it later."""

    preset_id: UUID
    kind: str
    """The kind of event."""
    data: dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class PassPlan:
    """The plan of a whole pass."""

    taken_at: datetime
    paused: bool
    decisions: list[PresetDecision] = field(default_factory=list)
    """One for every preset, in the snapshot's order."""
    shares: Shares | None = None
    """None: pending builds are not limited."""
    passes: int = 0
    excluded: Container[UUID] = ()
    """Ids of organizations whose presets are left alone."""

    @property
    def short_of_capacity(self) -> bool:
        """Whether some preset waits for capacity, which frees up as builds begin."""
        return any(one.held is not None and one.held.reason is Hold.CAPACITY for one in self.decisions)

    def presets_to_reconcile(self, limit: int) -> list[UUID]:
        """Return the ids of at most *limit* presets with work.

        Urgent presets (with deletions or waiting claims) come first, then the others. Each of these two groups rotates
        from pass to pass, so that the limit starves no preset.
        """
        due = [one for one in self.decisions if one.has_work and one.item.preset.organization_id not in self.excluded]
        urgent = [one.item.preset.id for one in due if one.deletes or one.item.preset.waiting]
        usual = [one.item.preset.id for one in due if not (one.deletes or one.item.preset.waiting)]
        first = self._rotate(urgent, limit)
        return [*first, *self._rotate(usual, max(limit - len(first), 0))]

    def paths_of(self, ids: Sequence[UUID]) -> list[str]:
        """The paths of presets of this pass, in the order of *ids*."""
        paths = {one.item.preset.id: one.item.preset.path for one in self.decisions}
        return [paths[preset] for preset in ids]

    def notes(self) -> list[Note]:
        """Return a note for each hold that withholds something now, and for each schedule that cannot be read. A pause
        gets none, since it is an event of its own."""
        notes = []
        for one in self.decisions:
            if one.held is not None and one.held.reason is not Hold.PAUSED and one.creates < one.state.missing:
                notes.append(hold_note(one.item.preset.id, one.held))
            if one.state.unreadable_schedule is not None:
                why: dict[str, str | int | None] = {"why": one.state.unreadable_schedule, "base": one.state.desired}
                notes.append(Note(one.item.preset.id, "schedule_unreadable", why))
        return notes

    def _rotate(self, ids: Sequence[UUID], count: int) -> list[UUID]:
        """Return *count* ids, or all if there are fewer. While *count* and *ids* stay the same, the next pass continues
        where this one ends."""
        start = self.passes * count % len(ids) if ids else 0
        return [*ids[start:], *ids[:start]][:count]


def hold_note(preset_id: UUID, held: Held) -> Note:
    """Return the note that creation is withheld from a preset."""
    until = held.until.isoformat() if held.until is not None else None
    return Note(preset_id, "creation_held", {"reason": held.reason, "until": until})


def plan_pass(snapshot: GlobalSnapshot, excluded: Container[UUID] = ()) -> PassPlan:
    """Decide which presets a pass reconciles. While paused it reconciles none.

    Args:
        excluded: Ids of organizations whose presets are left alone, and get no share of the capacity.
    """
    work = _find_work(snapshot)
    shares = _share_pending_builds(snapshot, work, excluded)
    decisions = [_decide_preset(one, snapshot, shares) for one in work]
    return PassPlan(snapshot.taken_at, snapshot.paused, decisions, shares, snapshot.passes, excluded)


@dataclass(frozen=True, slots=True)
class _Work:
    """The work that one preset may begin, before the capacity is shared. In a pool with several generations, the new
    generation has all of the pool's work."""

    item: PresetCounts
    state: PoolState
    allowed: AllowedWork
    cancellations: int
    pending: int
    """Number of creations that no worker has begun."""
    generations: Generations | None = None


def _find_work(snapshot: GlobalSnapshot) -> list[_Work]:
    """Find the work of every preset, in the snapshot's order."""
    members = member_shares(snapshot)
    pools = find_generations(snapshot.presets, snapshot, members)
    others = other_generations(snapshot.presets)
    found = []
    for item in snapshot.presets:
        generations = pools.get(item.preset.id)
        if generations is None:
            found.append(_work_of(item, others.get(item.preset.id, ()), snapshot, members))
        else:
            found.append(_work_of_generation(item, generations, snapshot))
    return found


def _work_of(
    item: PresetCounts, others: Sequence[PresetCounts], snapshot: GlobalSnapshot, shares: Mapping[UUID, MemberShare]
) -> _Work:
    counts = item.counts
    state = pool_state(item.preset, counts, item.history, snapshot, shares.get(item.preset.id))
    elsewhere = [(other.preset, find_due(other, snapshot, shares.get(other.preset.id))) for other in others]
    allowed = allow_work(item.preset, state, count_deletions(counts, state), elsewhere)
    cancellations = 0 if state.active else counts.creations_pending
    return _Work(item, state, allowed, cancellations, counts.creations_pending)


def _work_of_generation(item: PresetCounts, generations: Generations, snapshot: GlobalSnapshot) -> _Work:
    if generations.new is not item:
        state = pool_state(item.preset, item.counts, item.history, snapshot)
        return _Work(item, state, AllowedWork(0, 0, None), 0, 0, generations)
    step, every = plan_step(generations.pool), [one.counts for one in generations.all]
    deletions = sum(step.remove.values()) + sum(step.drop.values())
    deletions += sum(c.expired + c.unhealthy + c.paused_expired + c.evidence_due for c in every)
    return _Work(
        item,
        generations.state,
        allow_step(generations, step, deletions),
        cancellations=sum(step.cancel.values()),
        pending=sum(c.creations_pending for c in every),
        generations=generations,
    )


def _decide_preset(work: _Work, snapshot: GlobalSnapshot, shares: Shares | None) -> PresetDecision:
    held, creates = work.allowed.held, work.allowed.creates
    if creates and shares is not None:
        room = max(shares.pending_max(work.item.preset.id) - work.pending, 0)
        if room < creates:
            held, creates = Held(Hold.CAPACITY), room
    deletes = not snapshot.paused and work.allowed.deletes + work.cancellations > 0
    moves = 0 if snapshot.paused else work.allowed.moves
    return PresetDecision(
        work.item, work.state, creates, deletes=deletes, held=held, generations=work.generations, moves=moves
    )


def _share_pending_builds(snapshot: GlobalSnapshot, work: Sequence[_Work], excluded: Container[UUID]) -> Shares | None:
    """Share the capacity that deletions, pauses and resumes leave among the creations that nothing else holds.

    Returns:
        None for no limit.
    """
    limit = snapshot.rules.max_pending_builds
    if limit is None:
        return None
    demands, taken = [], 0
    for one in work:
        counts = one.item.counts
        taken += counts.pending - counts.creations_pending
        if one.item.preset.organization_id in excluded:
            demands.append(Demand(one.item.preset.id, one.pending, 0))
            continue
        taken += min(one.allowed.deletes, DELETES_PER_PASS_MAX) + one.allowed.moves
        demands.append(Demand(one.item.preset.id, one.pending, one.allowed.creates))
    return share_capacity(demands, limit - taken, snapshot.passes)
