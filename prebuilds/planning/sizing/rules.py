"""Rules that say what size a pool should have, each from the demand before.

A rule gives a size for each minute of a demand and for the minute after its end, and looks at earlier minutes alone:
`tests/unit/test_sizing_rules.py` holds every rule to that. What is replayed on the past and what is followed now is so
the same function.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.formulas import size_where_misses_leave, size_where_misses_wait

HISTORY_DAYS = 14
"""How far back any rule looks."""
MIXED_HOURS = 4
LOAD_STEPS_PER_CLAIM = 20
"""Loads are rounded up to a twentieth of a claim, so that a replay computes each size once."""


class Rule(Protocol):
    """One way to size a pool."""

    @property
    def name(self) -> str:
        """What people read: the rule and its settings."""
        ...

    def lookback_min(self, lead_s: float) -> int:
        """How many minutes of demand the size of a minute depends on, the rule's own and those of a lead time."""
        ...

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        """The size for each minute of the demand, and one more for the minute that follows it.

        Args:
            lead_s: Seconds from the start of a creation until its prebuild is ready.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same size at all times."""

    size: int

    @property
    def name(self) -> str:
        return f"fixed {self.size}"

    def lookback_min(self, lead_s: float) -> int:
        return 0

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        return [self.size] * (demand.minutes + 1)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A size, and one more for some hours of each four.

    A fixed size is a whole number, so that the smallest one that meets a target often exceeds it. One less for a part
    of the time meets it more closely. The hours are long, so that few members are made and deleted for it.
    """

    size: int
    hours: int
    """How many of each `MIXED_HOURS` have one more; the first ones, counted from midnight UTC."""

    @property
    def name(self) -> str:
        return f"fixed {self.size}, and {self.size + 1} for {self.hours} of {MIXED_HOURS} h"

    def lookback_min(self, lead_s: float) -> int:
        return 0

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        begin = round(demand.begins_at.timestamp() / 60)
        return [
            self.size + (minute // 60 % MIXED_HOURS < self.hours) for minute in range(begin, begin + demand.minutes + 1)
        ]


@dataclass(frozen=True, slots=True)
class Rate:
    """Holds what the formulas give for the rate of the last minutes."""

    window_min: int
    hit_rate: float
    waits: bool = False
    """Whether a miss waits (Poisson) or leaves (Erlang B)."""
    headroom: float = 1.0
    """What the rate is multiplied by. A rate that rises is always ahead of its mean over the minutes before."""

    @property
    def name(self) -> str:
        formula = "Poisson" if self.waits else "Erlang B"
        return f"rate of {self.window_min} min x {self.headroom:g}, {formula}"

    def lookback_min(self, lead_s: float) -> int:
        return self.window_min

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        size_of = size_where_misses_wait if self.waits else size_where_misses_leave
        per_minute = demand.per_minute
        load_per_claim = self.headroom * lead_s / 60
        recent, sizes = 0, []
        for minute in range(demand.minutes + 1):
            seen = max(min(minute, self.window_min), 1)
            load = recent / seen * load_per_claim
            sizes.append(size_of(math.ceil(load * LOAD_STEPS_PER_CLAIM) / LOAD_STEPS_PER_CLAIM, self.hit_rate))
            if minute < demand.minutes:
                recent += per_minute[minute]
                recent -= per_minute[minute - self.window_min] if minute >= self.window_min else 0
        return sizes


@dataclass(frozen=True, slots=True)
class PeakHold:
    """The most claims that came within one lead time, over the last while.

    Bursts are far from a Poisson process: agents start together. Who has seen a burst of forty holds forty.
    """

    hold_min: int
    headroom: float = 1.0

    @property
    def name(self) -> str:
        return f"peak of {self.hold_min} min x {self.headroom:g}"

    def lookback_min(self, lead_s: float) -> int:
        return self.hold_min + math.ceil(lead_s / 60)

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        return [math.ceil(n * self.headroom) for n in highest_before(demand.within_lead(lead_s), self.hold_min)]


@dataclass(frozen=True, slots=True)
class ByHour:
    """A quantile of the claims within one lead time, over the same hour of earlier weeks in the demand's time zone.

    An hour that begins within a lead time counts already. Without an earlier week, the size is 0.
    """

    quantile: float
    headroom: float = 1.0

    @property
    def name(self) -> str:
        return f"hour of the week, quantile {self.quantile:g} x {self.headroom:g}"

    def lookback_min(self, lead_s: float) -> int:
        return HISTORY_DAYS * 24 * 60

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        within = demand.within_lead(lead_s)
        ahead = math.ceil(lead_s / 60) + 1
        hours = demand.hours_of_week(demand.minutes + 1 + ahead)
        seen: dict[int, list[int]] = defaultdict(list)
        known: dict[int, int] = {}
        sizes = []
        for minute in range(demand.minutes + 1):
            hour = hours[minute]
            most = max(self._of(seen, known, hour), self._of(seen, known, hours[minute + ahead]))
            sizes.append(math.ceil(most * self.headroom))
            if minute < demand.minutes:
                seen[hour].append(within[minute])
                if hours[minute + 1] != hour:
                    known.pop(hour, None)
        return sizes

    def _of(self, seen: dict[int, list[int]], known: dict[int, int], hour: int) -> int:
        if hour not in known:
            counts = sorted(seen[hour])
            known[hour] = counts[min(int(self.quantile * len(counts)), len(counts) - 1)] if counts else 0
        return known[hour]


@dataclass(frozen=True, slots=True)
class Larger:
    """The larger of two rules at each minute: what a week has taught, and what happens now."""

    one: Rule
    other: Rule

    @property
    def name(self) -> str:
        return f"{self.one.name} or {self.other.name}"

    def lookback_min(self, lead_s: float) -> int:
        return max(self.one.lookback_min(lead_s), self.other.lookback_min(lead_s))

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        return [
            max(pair) for pair in zip(self.one.sizes(demand, lead_s), self.other.sizes(demand, lead_s), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Refilled:
    """A rule of a pool whose ready members are refilled from paused ones: their resume takes the place of the lead
    time."""

    rule: Rule
    resume_s: float
    """Seconds of a resume, as it was measured when the rule was chosen."""

    @property
    def name(self) -> str:
        return f"{self.rule.name}, resumed in {self.resume_s:.1f} s"

    def lookback_min(self, lead_s: float) -> int:
        return self.rule.lookback_min(min(self.resume_s, lead_s))

    def sizes(self, demand: Demand, lead_s: float) -> list[int]:
        return self.rule.sizes(demand, min(self.resume_s, lead_s))


def highest_before(values: Sequence[int], lookback: int) -> list[int]:
    """The highest of the `lookback` values before each one, and before the end; 0 where there is none."""
    highest: list[int] = []
    candidates: deque[int] = deque()  # positions whose values fall, so that the first is the highest
    for n in range(len(values) + 1):
        while candidates and candidates[0] < n - lookback:
            candidates.popleft()
        highest.append(values[candidates[0]] if candidates else 0)
        if n < len(values):
            while candidates and values[candidates[-1]] <= values[n]:
                candidates.pop()
            candidates.append(n)
    return highest
