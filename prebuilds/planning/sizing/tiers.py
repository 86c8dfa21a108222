"""Which count of ready and of paused prebuilds together meets a target at least cost.

A paused prebuild costs less than a ready one. A claim that finds none ready takes it and waits for its promotion; ready
ones are refilled from paused ones, which takes as long as a resume. For a hit rate such a claim is a miss all the same,
so there paused prebuilds help only by the quicker refill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Paused, Score, replay
from prebuilds.planning.sizing.rules import Fixed

PAUSED_COST = 0.1
"""What a paused prebuild costs, as a share of a ready one, unless somebody says another: a disk without a machine."""


@dataclass(frozen=True, slots=True)
class Spares:
    """Which paused prebuilds a pool may have beside its ready ones."""

    most: int
    """The most of them."""
    promotion_s: float
    """What a claim of one waits, in seconds."""
    resume_s: float
    """Seconds until one of them is a ready one of the pool."""
    cost: float = PAUSED_COST
    """What one costs, as a share of a ready one."""

    def paused(self, count: int) -> Paused | None:
        """So many of them, for a replay; None for none."""
        return Paused(count, self.promotion_s, self.resume_s) if count else None


@dataclass(frozen=True, slots=True)
class Pair:
    """Counts of both tiers, held at all times, and what they came to."""

    ready: int
    paused: int
    score: Score


def counts_to_try(most: int) -> list[int]:
    """The paused counts that are tried: powers of two, and the most. So there are few, however many are allowed."""
    return sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)}) if most > 0 else []


def choose_pair(
    demand: Demand, target: Target, bounds: Bounds, lead_s: float, spares: Spares, *, score_from: int
) -> Pair | None:
    """Return the cheapest counts of both tiers that met a target, with at least one paused; None when none did.

    For each paused count, the smallest ready count that meets the target is searched for, up to that of the count
    before: more ready ones cost more, and more paused ones need no more ready ones.
    """
    found: list[Pair] = []
    for count in counts_to_try(spares.most):
        pair = _smallest(demand, target, bounds, lead_s, spares, count, score_from)
        if pair is not None:
            bounds = replace(bounds, max=pair.ready)
            found += [pair] if target.is_affordable(pair.score) else []
    return min(found, key=lambda pair: (pair.score.priced_s(spares.cost), pair.paused), default=None)


def _smallest(
    demand: Demand, target: Target, bounds: Bounds, lead_s: float, spares: Spares, count: int, score_from: int
) -> Pair | None:
    def held(ready: int) -> Pair:
        sizes = Fixed(ready).sizes(demand, lead_s)
        paused = spares.paused(count)
        return Pair(
            ready,
            count,
            replay(demand, sizes, lead_s, waits=target.waits, score_from=score_from, paused=paused),
        )

    low, high = bounds.min, bounds.max
    best = held(high)
    if not target.is_met(best.score):
        return None
    while low < high:
        middle = (low + high) // 2
        tried = held(middle)
        if target.is_met(tried.score):
            high, best = middle, tried
        else:
            low = middle + 1
    return best
