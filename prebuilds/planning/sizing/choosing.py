"""Which rule a pool should follow: the cheapest one that met its target on the pool's own demand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Score, replay
from prebuilds.planning.sizing.rules import MIXED_HOURS, ByHour, Fixed, Larger, Mixed, PeakHold, Rate, Rule

RATE_WINDOWS_MIN = (10, 30, 60, 120)
RATE_HEADROOMS = (1.0, 1.25, 1.5, 2.0)
PEAK_LOOKBACKS_MIN = (15, 30, 60, 120, 240, 480, 1440, 4320, 10080)
PEAK_HEADROOMS = (1.0, 1.25)
HOUR_QUANTILES = (0.99, 1.0)
HOUR_HEADROOMS = (1.0, 1.25)
HOUR_FLOORS = (1, 2, 3)
"""Sizes for the hours in which few claims come, so that no minute of them taught anything."""
HISTORY_MIN = 24 * 60
"""A day of demand: with less there is nothing to choose by."""
CLAIMS_MIN = 50
"""Claims below which a hit rate says nothing: with fifty, one miss is two points."""
FIRST = PeakHold(1440)
"""Rule of a pool until it can choose. After the first burst it holds what that burst would have needed."""
DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Target:
    """What a pool is to reach: one of the two."""

    hit_rate: float | None = None
    """The share of claims that find one ready; between 0 and 1, both excluded. A miss goes elsewhere."""
    wait_p95_s: float | None = None
    """The wait within which 19 of 20 claims are served, in seconds. A miss waits."""
    idle_max: float | None = None
    """The most members that may be ready on average; None without a limit."""

    @property
    def waits(self) -> bool:
        """Whether a claim that finds none ready waits for one."""
        return self.wait_p95_s is not None

    @property
    def formula_hit_rate(self) -> float:
        """The hit rate to ask of the formulas. Where 19 of 20 find one ready, the 95th percentile waits for nothing."""
        return self.hit_rate if self.hit_rate is not None else 0.95

    def is_met(self, score: Score) -> bool:
        """Whether a replay met what was asked of the claims."""
        if self.wait_p95_s is not None:
            return score.wait_s(0.95) <= self.wait_p95_s
        return score.hit_rate >= self.formula_hit_rate

    def served(self, score: Score) -> float:
        """Return the share of claims that the target counts as served: by a ready member, or within the wait."""
        if self.wait_p95_s is None or not score.claims:
            return score.hit_rate
        return (score.hits + bisect_right(score.waits_s, self.wait_p95_s)) / score.claims

    def is_affordable(self, score: Score) -> bool:
        """Whether it kept no more members ready than allowed."""
        return self.idle_max is None or score.idle_mean <= self.idle_max


@dataclass(frozen=True, slots=True)
class Tried:
    """A rule and what its replay came to."""

    rule: Rule
    score: Score
    met: bool
    affordable: bool
    paused: int = 0
    """Number of paused prebuilds that the replay held beside the rule's size."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule to follow, and all that was tried."""

    rule: Rule
    tried: Sequence[Tried]
    """The cheapest first; empty while there is too little history."""
    met: bool
    """Whether the rule met the target within its limit of idle members. If not, it is the one that came nearest."""
    paused: int = 0
    """Number of paused prebuilds to hold beside the rule's size."""


def choose(demand: Demand, target: Target, bounds: Bounds, lead_s: float) -> Choice:
    """Replay all rules on a demand, and take the cheapest one that met the target on its second half.

    The first half is what rules have learned by then. Where none met it within the limit of idle members, the one with
    the best claims within that limit is taken; where none is within the limit, the cheapest.
    """
    if not is_enough(demand):
        return Choice(FIRST, (), met=False)
    rules = candidates(demand, target, bounds, lead_s)
    tried = sorted((_try(rule, demand, target, bounds, lead_s) for rule in rules), key=_cost)
    good = [t for t in tried if t.met and t.affordable]
    if good:
        return Choice(good[0].rule, tried, met=True)
    affordable = [t for t in tried if t.affordable]
    best = max(affordable, key=lambda t: (t.score.hit_rate, -t.score.idle_mean)) if affordable else tried[0]
    return Choice(best.rule, tried, met=False)


def is_enough(demand: Demand) -> bool:
    """Whether there is enough history to choose by."""
    return demand.minutes >= HISTORY_MIN and demand.claims >= CLAIMS_MIN


def candidates(demand: Demand, target: Target, bounds: Bounds, lead_s: float) -> Iterator[Rule]:
    """The rules that are tried."""
    size = smallest_fixed(demand, target, bounds, lead_s, score_from=demand.minutes // 2)
    if size is not None:
        yield Fixed(size)
        if size > bounds.min:
            yield from (Mixed(size - 1, hours) for hours in range(1, MIXED_HOURS))
    yield from changing_rules(demand, target)


def changing_rules(demand: Demand, target: Target, *, headroom: bool = True) -> Iterator[Rule]:
    """The rules whose size changes with demand.

    Args:
        headroom: Whether rules that ask for more than the demand before are among them.
    """
    rate_headrooms, peak_headrooms, hour_headrooms = (
        of_kind if headroom else (1.0,) for of_kind in (RATE_HEADROOMS, PEAK_HEADROOMS, HOUR_HEADROOMS)
    )
    yield from (Rate(w, target.formula_hit_rate, target.waits, h) for w in RATE_WINDOWS_MIN for h in rate_headrooms)
    yield from (
        PeakHold(lookback, h) for lookback in PEAK_LOOKBACKS_MIN if lookback < demand.minutes for h in peak_headrooms
    )
    if demand.minutes > 7 * DAY_MIN:
        for by_hour in (ByHour(quantile, h) for quantile in HOUR_QUANTILES for h in hour_headrooms):
            yield Larger(by_hour, Rate(30, target.formula_hit_rate, target.waits))
            yield Larger(by_hour, PeakHold(30))
            yield from (Larger(by_hour, Fixed(floor)) for floor in HOUR_FLOORS)


def smallest_fixed(demand: Demand, target: Target, bounds: Bounds, lead_s: float, *, score_from: int = 0) -> int | None:
    """The smallest size that meets the target when it is held at all times; None when none within the bounds does."""
    low, high = bounds.min, bounds.max
    if not _meets(high, demand, target, lead_s, score_from):
        return None
    while low < high:
        middle = (low + high) // 2
        if _meets(middle, demand, target, lead_s, score_from):
            high = middle
        else:
            low = middle + 1
    return low


def _meets(size: int, demand: Demand, target: Target, lead_s: float, score_from: int) -> bool:
    sizes = Fixed(size).sizes(demand, lead_s)
    return target.is_met(replay(demand, sizes, lead_s, waits=target.waits, score_from=score_from))


def _try(rule: Rule, demand: Demand, target: Target, bounds: Bounds, lead_s: float) -> Tried:
    score = replay(
        demand,
        bounds.settle(rule.sizes(demand, lead_s), lead_s),
        lead_s,
        waits=target.waits,
        score_from=demand.minutes // 2,
    )
    return Tried(rule, score, target.is_met(score), target.is_affordable(score))


def _cost(tried: Tried) -> tuple[float, str]:
    return tried.score.member_s, tried.rule.name
