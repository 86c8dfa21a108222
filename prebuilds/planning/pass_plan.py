"""What a whole pass does: which presets have work, in which order, with which share of the capacity.

Decided from counts, for thousands of presets at once; `plan_preset` then decides each one's ids from its rows.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from prebuilds.planning.capacity import Demand, Shares, share_capacity
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.plan import DELETES_PER_PASS_MAX
from prebuilds.planning.snapshot import GlobalSnapshot, PresetCounts
from prebuilds.planning.state import PoolState, pool_state


@dataclass(frozen=True, slots=True)
class Turn:
    """One preset of the snapshot, with its figures and what is decided about it."""

    item: PresetCounts
    state: PoolState
    creates: int
    """How many creations nothing withholds."""
    deletes: bool
    """Whether there is anything to delete or to cancel."""
    held: Held | None
    """The first hold on its creations, capacity included."""

    @property
    def has_work(self) -> bool:
        return self.deletes or self.creates > 0


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass found out about a preset that its operator should be able to read later."""

    preset_id: UUID
    kind: str
    data: dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class PassPlan:
    """A whole pass."""

    taken_at: datetime
    paused: bool
    turns: list[Turn] = field(default_factory=list)
    """Of every preset, in the snapshot's order."""
    shares: Shares | None = None
    """None: pending builds are not limited."""
    passes: int = 0
    barred: Container[UUID] = ()
    """Organizations whose presets are left alone."""

    @property
    def short(self) -> bool:
        """Whether somebody waits for capacity, which frees up as builds begin."""
        return any(turn.held is not None and turn.held.reason is Hold.CAPACITY for turn in self.turns)

    def working(self, limit: int) -> list[UUID]:
        """At most *limit* ids of presets to reconcile: those that somebody waits for and those with deletions first.
        Which ones come first within their group rotates from pass to pass, so that a bound starves nobody."""
        working = [t for t in self.turns if t.has_work and t.item.preset.organization_id not in self.barred]
        urgent = [t.item.preset.id for t in working if t.deletes or t.item.preset.waiting]
        usual = [t.item.preset.id for t in working if not (t.deletes or t.item.preset.waiting)]
        first = self._rotated(urgent, limit)
        return [*first, *self._rotated(usual, max(limit - len(first), 0))]

    def notes(self) -> list[Note]:
        """Holds that withhold something now, and schedules passed over. A pause is an event of its own."""
        found = []
        for turn in self.turns:
            if turn.held is not None and turn.held.reason is not Hold.PAUSED and turn.creates < turn.state.missing:
                found.append(hold_note(turn.item.preset.id, turn.held))
            if turn.state.unreadable_schedule is not None:
                why: dict[str, str | int | None] = {"why": turn.state.unreadable_schedule, "base": turn.state.desired}
                found.append(Note(turn.item.preset.id, "schedule_unreadable", why))
        return found

    def _rotated(self, ids: Sequence[UUID], served: int) -> list[UUID]:
        start = self.passes * served % len(ids) if ids else 0  # the next pass goes on where this one ends
        return [*ids[start:], *ids[:start]][:served]


def hold_note(preset_id: UUID, held: Held) -> Note:
    until = held.until.isoformat() if held.until is not None else None
    return Note(preset_id, "creation_held", {"reason": held.reason, "until": until})


def plan_pass(snapshot: GlobalSnapshot, barred: Container[UUID] = ()) -> PassPlan:
    """Decide which presets a pass reconciles; none while paused.

    Args:
        barred: Organizations whose presets are left alone, and take no share of the capacity.
    """
    states = [pool_state(item.preset, item.counts, item.history, snapshot) for item in snapshot.presets]
    shares = _shares(snapshot, states, barred)
    turns = [_turn(item, state, snapshot, shares) for item, state in zip(snapshot.presets, states, strict=True)]
    return PassPlan(snapshot.taken_at, snapshot.paused, turns, shares, snapshot.passes, barred)


def _turn(item: PresetCounts, state: PoolState, snapshot: GlobalSnapshot, shares: Shares | None) -> Turn:
    held, creates = state.held, 0 if state.held is not None else state.missing
    if creates and shares is not None:
        room = max(shares.pending_max(item.preset.id) - item.counts.creations_pending, 0)
        if room < creates:
            held, creates = Held(Hold.CAPACITY), room
    return Turn(item, state, creates, deletes=not snapshot.paused and _deletes(item, state) > 0, held=held)


def _deletes(item: PresetCounts, state: PoolState) -> int:
    counts = item.counts
    if not state.active:
        return counts.running + counts.creations_pending + counts.evidence_due
    return counts.expired + counts.unhealthy + state.extraneous + counts.evidence_due


def _shares(snapshot: GlobalSnapshot, states: Sequence[PoolState], barred: Container[UUID]) -> Shares | None:
    """What deletions leave of the capacity, shared among the creations that nothing else withholds."""
    limit = snapshot.rules.max_pending_builds
    if limit is None:
        return None
    demands, taken = [], 0
    for item, state in zip(snapshot.presets, states, strict=True):
        pending = item.counts.creations_pending
        taken += item.counts.pending - pending
        if item.preset.organization_id in barred:
            demands.append(Demand(item.preset.id, pending, 0))
            continue
        builds = _deletes(item, state) - (0 if state.active else pending)  # a cancellation is none
        taken += min(builds, DELETES_PER_PASS_MAX)
        demands.append(Demand(item.preset.id, pending, 0 if state.held is not None else state.missing))
    return share_capacity(demands, limit - taken, snapshot.passes)
