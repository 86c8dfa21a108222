"""What a pool was asked for, counted in short slots of time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from itertools import accumulate, chain, repeat
from operator import sub

SLOT_S = 10
"""The length of a slot in seconds. A burst of agents is over in less than a minute, so that a minute is too long."""
SLOTS_PER_MINUTE = 60 // SLOT_S
DAY_MIN = 24 * 60
STEP_MIN = 15
"""Minutes. In every time zone, hours begin at a multiple of a quarter of an hour of UTC."""
BUSY_DAY = 10
"""A busy day may have this many times the bound on claims."""


@dataclass(frozen=True)
class Demand:
    """The claims of one preset over some whole minutes, those that found nothing among them."""

    begins_at: datetime
    """A whole minute."""
    counts: Sequence[int]
    """Claims in each slot of `SLOT_S`, oldest first; whole minutes, so that their number is a multiple of 6."""
    zone: tzinfo = UTC
    """The time zone by which hours of the week are counted."""

    @classmethod
    def of_times(cls, times: Iterable[datetime], *, begins_at: datetime, minutes: int) -> Demand:
        """Count claims by the times when they were made.

        Args:
            times: In any order. What lies outside the minutes is left out.
            begins_at: A whole minute, in the times' zone or with a zone as they have.
            minutes: How many minutes are counted.
        """
        counts = [0] * (minutes * SLOTS_PER_MINUTE)
        for at in times:
            slot = math.floor((at - begins_at).total_seconds() / SLOT_S)
            if 0 <= slot < len(counts):
                counts[slot] += 1
        return cls(begins_at, counts)

    @property
    def minutes(self) -> int:
        """How many minutes it covers."""
        return len(self.counts) // SLOTS_PER_MINUTE

    @cached_property
    def claims(self) -> int:
        """How many claims there were."""
        return sum(self.counts)

    def minute_at(self, minute: int) -> datetime:
        """When a minute begins, counted from zero."""
        return self.begins_at + timedelta(minutes=minute)

    def first(self, minutes: int) -> Demand:
        """Its first minutes alone."""
        return replace(self, counts=self.counts[: minutes * SLOTS_PER_MINUTE])

    def newest(self, claims_max: int) -> Demand:
        """Return the newest minutes with at most so many claims, but at least a day if there is one.

        That day may have ten times as many claims. A busier day is cut, so that there is too little history to choose a
        rule.
        """
        claims = 0
        for minute in range(self.minutes - 1, -1, -1):
            claims += self.per_minute[minute]
            bound = claims_max if self.minutes - minute > DAY_MIN else BUSY_DAY * claims_max
            if claims > bound:
                begin = minute + 1
                return replace(self, begins_at=self.minute_at(begin), counts=self.counts[begin * SLOTS_PER_MINUTE :])
        return self

    @cached_property
    def per_minute(self) -> Sequence[int]:
        """Claims in each minute."""
        return [sum(self.counts[n : n + SLOTS_PER_MINUTE]) for n in range(0, len(self.counts), SLOTS_PER_MINUTE)]

    def within_lead(self, lead_s: float) -> Sequence[int]:
        """The most claims within one lead time that ended in each minute.

        A pool that holds as many has a prebuild for each of them, since what the first one takes is back only a lead
        time later.
        """
        slots = max(math.ceil(lead_s / SLOT_S), 1)
        if slots not in self._within:
            self._within[slots] = self._most_within(slots)
        return self._within[slots]

    @cached_property
    def _within(self) -> dict[int, Sequence[int]]:
        """Results cached for each lead time, as long as this object lives."""
        return {}

    def _most_within(self, slots: int) -> Sequence[int]:
        gone = chain(repeat(0, slots), self.counts)  # the count that leaves the window as each slot enters it
        sums = list(accumulate(map(sub, self.counts, gone)))
        return [max(sums[n : n + SLOTS_PER_MINUTE]) for n in range(0, len(sums), SLOTS_PER_MINUTE)]

    def hours_of_week(self, minutes: int) -> Sequence[int]:
        """Return the hour of the week of each of the first minutes; 0 is the first hour of Monday."""
        if minutes not in self._hours:
            self._hours[minutes] = self._list_hours(minutes)
        return self._hours[minutes]

    @cached_property
    def _hours(self) -> dict[int, Sequence[int]]:
        return {}

    def _list_hours(self, minutes: int) -> Sequence[int]:
        hours: list[int] = []
        at = self.begins_at.astimezone(UTC)
        while len(hours) < minutes:
            local = at.astimezone(self.zone)
            left = STEP_MIN - at.minute % STEP_MIN
            hours += [local.weekday() * 24 + local.hour] * left
            at += timedelta(minutes=left)
        return hours[:minutes]

    @cached_property
    def arrivals(self) -> Sequence[float]:
        """When each claim was made, in seconds from the beginning. Those of one slot are spread over it at random,
        always in the same way: spread evenly, they would hit more often than independent claims do."""
        chance = random.Random(0)  # noqa: S311 - times, no secrets
        return [
            (slot + at) * SLOT_S
            for slot, count in enumerate(self.counts)
            if count
            for at in sorted(chance.random() for _ in range(count))
        ]
