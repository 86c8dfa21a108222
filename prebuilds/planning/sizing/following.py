"""Computes the size that a pool follows, from the chosen rule and from earlier sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.rules import Rule
from prebuilds.planning.sizing.shrinking import WantedSize, holding_sizes


@dataclass(frozen=True, slots=True)
class Next:
    """The result of a sizer's turn for one preset."""

    holding: Sequence[WantedSize]
    """Wanted sizes that hold the size up, to be stored for the next turn."""
    bounds: Bounds
    before: int | None
    """The size that was followed until now; None if none was."""

    @property
    def shrinks(self) -> bool:
        """Whether the pool should shrink, so that `young` matters."""
        return self.before is not None and self.holding[0].size < self.before

    def size(self, young: int) -> int:
        """Return the size to follow.

        Args:
            young: Number of members that are too young to be deleted, given their cost. The oldest are deleted first,
                so none of these is deleted while the size is at least their number.
        """
        return self.bounds.clamp(max(self.holding[0].size, min(self.before or 0, young)))


def next_size(
    rule: Rule,
    demand: Demand,
    lead_s: float,
    bounds: Bounds,
    *,
    at: datetime,
    before: int | None,
    holding: Iterable[WantedSize],
) -> Next:
    """Compute the current size by a rule.

    Args:
        demand: The last whole minutes before *at*, for as long as the rule and the cool-down look back.
        before: The size that was followed until now; None if none was.
        holding: The wanted sizes that the previous turn has stored.
    """
    earlier = list(holding)
    sizes = rule.sizes(demand, lead_s)
    if earlier:
        # What was wanted until the previous turn is stored. To settle these minutes again would hold it twice as long.
        minutes = max(round((at - earlier[-1].at) / timedelta(minutes=1)), 1)
        size = bounds.clamp(max(sizes[-minutes:]))
    else:
        size = bounds.settle(sizes, lead_s)[-1]
    cool_down = timedelta(minutes=bounds.cool_down(lead_s))
    return Next(holding_sizes(earlier, WantedSize(at, size), cool_down), bounds, before)
