"""Sharing what may still be queued: at most so many of the pools' builds may be pending, over all presets.

Shared max-min fairly: nobody gets more while somebody has less and wants more. The result is a level, below which every
preset may fill up its pending creations; so a preset that is nudged between two passes can be held to the same share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Demand:
    """What one preset has pending, and how many creations more it wants."""

    preset_id: UUID
    pending: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How many creations each preset may have pending, those it has included."""

    level: int
    favored: frozenset[UUID] = frozenset()
    """May have one more: the rest of the division, given in turn."""

    def pending_max(self, preset_id: UUID) -> int:
        return self.level + (preset_id in self.favored)


def share_capacity(demands: Sequence[Demand], capacity: int, turn: int) -> Shares:
    """Divide *capacity* pending creations.

    Args:
        demands: Of every preset, in a steady order.
        capacity: For all of them together; may be negative when more is pending already.
        turn: Rotates who gets the rest of the division, so that with less capacity than presets each has its turn.
    Returns:
        The highest level that fits. All of *capacity* when nobody is short, so that a preset that wants something only
        after this pass, as after a claim, is not held.
    """
    low, high = 0, max(capacity, 0)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if _filled(demands, level) <= capacity else (low, level - 1)
    rest = capacity - _filled(demands, low)
    wanting = [d.preset_id for d in demands if d.pending <= low < d.pending + d.wanted]
    if rest <= 0 or not wanting:
        return Shares(low)
    first = turn * rest % len(wanting)  # the next turn goes on where this one ends
    return Shares(low, frozenset((wanting[first:] + wanting[:first])[:rest]))


def _filled(demands: Sequence[Demand], level: int) -> int:
    """How many would be pending, were everybody filled up to *level*."""
    return sum(max(d.pending, min(level, d.pending + d.wanted)) for d in demands)
