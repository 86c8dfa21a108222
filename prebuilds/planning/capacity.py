"""Divides the capacity, which is the limit on the pools' pending builds, among all presets.

The division is max-min fair: no preset gets more while another one has less and wants more. The result is a level, up
to which every preset may fill its pending creations. A preset that is nudged between two passes keeps to that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Demand:
    """How many pending creations one preset has, and how many more it wants."""

    preset_id: UUID
    pending: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How many pending creations each preset may have, including those that it has already."""

    level: int
    favored: frozenset[UUID] = frozenset()
    """Presets that may have one more than the level: they get the remainder of the division, by rotation."""

    def pending_max(self, preset_id: UUID) -> int:
        """Return how many pending creations this preset may have."""
        return self.level + (preset_id in self.favored)


def share_capacity(demands: Sequence[Demand], capacity: int, rotation: int) -> Shares:
    """Divide *capacity* pending creations among the presets.

    Args:
        demands: One for every preset, in the same order each time.
        capacity: The limit for all presets together. It may be negative when more builds are pending already.
        rotation: A number that grows by one with each pass. It rotates who gets the remainder of the division, so that
            each preset is served in turn when there is less capacity than presets.
    Returns:
        The highest level that fits. The level is the whole of *capacity* when no preset wants more than it may have, so
        that a preset that wants something only after this pass, as after a claim, is not held.
    """
    low, high = 0, max(capacity, 0)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if _pending_at_level(demands, level) <= capacity else (low, level - 1)
    remainder = capacity - _pending_at_level(demands, low)
    unsatisfied = [d.preset_id for d in demands if d.pending <= low < d.pending + d.wanted]
    if remainder <= 0 or not unsatisfied:
        return Shares(low)
    first = rotation * remainder % len(unsatisfied)  # the next rotation continues where this one ends
    return Shares(low, frozenset((unsatisfied[first:] + unsatisfied[:first])[:remainder]))


def _pending_at_level(demands: Sequence[Demand], level: int) -> int:
    """Return how many creations would be pending if every preset were filled up to *level*."""
    return sum(max(d.pending, min(level, d.pending + d.wanted)) for d in demands)
