"""Which rule for ready prebuilds and which count of paused ones together meet a target at least cost.

A paused prebuild costs less than a ready one. A claim that finds none ready takes it and waits for its promotion; ready
ones are refilled from paused ones, which takes as long as a resume. For a hit rate such a claim is a miss all the same,
so there paused prebuilds help only by the quicker refill. For a wait it counts as served if its promotion is within it.

`prebuilds size` and the sizer both call `choose_tiers`, so that the pool follows what the replay has shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from prebuilds.planning.sizing.choosing import Choice, Target, Tried, changing_rules, choose
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Paused, replay
from prebuilds.planning.sizing.rules import Fixed, Refilled, Rule

PAUSED_COST = 0.1
"""What a paused prebuild costs, as a share of a ready one, unless somebody says another: a disk without a machine."""
HELPLESS_MAX = 2
RULES_BESIDE = 4
"""Number of rules for which the smallest paused count is searched for. Each search takes three or four replays."""


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


def choose_tiers(demand: Demand, target: Target, bounds: Bounds, lead_s: float, spares: Spares | None) -> Choice:
    """Take the cheapest rule that met a target, with or without paused prebuilds beside it.

    It is `choose` where there are no spares. Otherwise pairs are tried, too: a fixed size and the rules that change it,
    each with paused counts of `counts_to_try`. A paused count stays the same at all times of a replay.

    Returns:
        The choice, whose `paused` is at most `spares.most`. Where nothing met the target within the limit of idle
        members, it is what served the most claims within that limit, at the least cost among equals.
    """
    alone = choose(demand, target, bounds, lead_s)
    if spares is None or not spares.most or not alone.tried:
        return alone
    cost = _cost_with(spares)
    pairs = _Pairs(demand, target, bounds, lead_s, spares)
    fixed = list(pairs.with_fixed_sizes())
    tried = [*alone.tried, *fixed]
    if not any(one.rule == Fixed(bounds.min) for one in fixed):  # no rule holds fewer ready ones
        tried += pairs.with_changing_sizes()
    tried.sort(key=cost)
    good = [one for one in tried if one.met and one.affordable]
    affordable = [one for one in tried if one.affordable]
    best = good[0] if good else max(affordable, key=lambda one: target.served(one.score), default=tried[0])
    return Choice(best.rule, tried, met=bool(good), paused=best.paused)


def counts_to_try(most: int) -> list[int]:
    """The paused counts that are tried: powers of two, and the most. So there are few, however many are allowed."""
    return sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)}) if most > 0 else []


def _cost_with(spares: Spares) -> Callable[[Tried], tuple[float, int, str]]:
    return lambda one: (one.score.priced_s(spares.cost), one.paused, one.rule.name)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Rules with paused prebuilds beside them, replayed on one demand and scored on its second half."""

    demand: Demand
    target: Target
    bounds: Bounds
    lead_s: float
    spares: Spares

    def with_fixed_sizes(self) -> Iterator[Tried]:
        """For each paused count, yield the smallest fixed size that meets the target.

        It is searched for up to the size that the count before needed: more paused ones need no more ready ones. The
        search ends at the count that needs no more than the bounds ask for, and when more paused ones have not helped
        twice.
        """
        largest, of_no_help = self.bounds.max, 0
        for count in counts_to_try(self.spares.most):
            found = _first_that_met(range(self.bounds.min, largest + 1), partial(self._held_fixed, count))
            if found is None:
                continue
            of_no_help += found[0] == largest
            largest = found[0]
            yield found[1]
            if largest == self.bounds.min or of_no_help == HELPLESS_MAX:
                return

    def with_changing_sizes(self) -> Iterator[Tried]:
        """Yield rules with the smallest paused count by which each meets the target, and all with the most.

        The count is searched for only for a few rules: some of those that met the target with the most paused ones,
        from the cheapest to the dearest.
        """
        most = self.spares.most
        with_most = [self._held(rule, most) for rule in self._rules()]
        yield from with_most
        met = sorted((one for one in with_most if one.met and one.affordable), key=_cost_with(self.spares))
        for one in met[:: max(len(met) // RULES_BESIDE, 1)][:RULES_BESIDE]:
            found = _first_that_met(counts_to_try(most), partial(self._held, one.rule))
            if found is not None and found[0] < most:
                yield found[1]

    def _rules(self) -> Iterator[Rule]:
        for rule in changing_rules(self.demand, self.target, headroom=False):
            yield Refilled(rule, self.spares.resume_s) if self.spares.resume_s < self.lead_s else rule

    def _held_fixed(self, count: int, size: int) -> Tried:
        return self._held(Fixed(size), count)

    def _held(self, rule: Rule, count: int) -> Tried:
        score = replay(
            self.demand,
            self.bounds.settle(rule.sizes(self.demand, self.lead_s), self.lead_s),
            self.lead_s,
            waits=self.target.waits,
            score_from=self.demand.minutes // 2,
            paused=self.spares.paused(count),
        )
        return Tried(rule, score, self.target.is_met(score), self.target.is_affordable(score), count)


def _first_that_met(values: Sequence[int], held: Callable[[int], Tried]) -> tuple[int, Tried] | None:
    """Return the first of rising values that meets the target, and its replay; None if the last one does not.

    It is found by halving: the more is held, the more claims are served.
    """
    low, high = 0, len(values) - 1
    best = held(values[high])
    if not best.met:
        return None
    while low < high:
        middle = (low + high) // 2
        tried = held(values[middle])
        if tried.met:
            high, best = middle, tried
        else:
            low = middle + 1
    return values[high], best
