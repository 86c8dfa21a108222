"""Demands that pools meet: steady, by day and by week, a lecture at nine, and agents that start in bursts.

Each is made from a seed, so that two runs try the same.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime

from prebuilds.planning.sizing.demand import SLOT_S, SLOTS_PER_MINUTE, Demand

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
DAY_MIN = 24 * 60
WEEK_MIN = 7 * DAY_MIN


def steady(rng: random.Random, minutes: int, per_hour: float = 60) -> Demand:
    """Independent claims at one rate."""
    return _poisson(rng, minutes, lambda minute: per_hour)


def daily(rng: random.Random, minutes: int, per_hour: float = 120) -> Demand:
    """People who work by day: a rise in the morning, a dip at noon, little at night."""
    return _poisson(rng, minutes, lambda minute: per_hour * _day_shape(minute))


def weekly(rng: random.Random, minutes: int, per_hour: float = 120) -> Demand:
    """The same from Monday to Friday, and a tenth at the weekend."""
    return _poisson(
        rng, minutes, lambda minute: per_hour * _day_shape(minute) * (1 if minute // DAY_MIN % 7 < 5 else 0.1)
    )


def lecture(rng: random.Random, minutes: int, students: int = 80) -> Demand:
    """A class that starts at nine on weekdays, within three minutes, beside a few claims by day."""
    demand = _poisson(rng, minutes, lambda minute: 4 * _day_shape(minute))
    counts = list(demand.counts)
    for day in range(minutes // DAY_MIN):
        if day % 7 < 5:
            for _ in range(rng.randint(students - 10, students)):
                at_s = (day * DAY_MIN + 9 * 60) * 60 + rng.triangular(0, 180, 45)
                counts[int(at_s / SLOT_S)] += 1
    return Demand(demand.begins_at, counts)


def agent_bursts(rng: random.Random, minutes: int, agents: int = 40) -> Demand:
    """Runs of coding agents: for an hour or three a fleet starts some dozens within seconds, again and again.

    Between the runs it is silent for hours. The squared variation of the gaps between claims is above 100.
    """
    counts = [0] * (minutes * SLOTS_PER_MINUTE)
    minute = rng.expovariate(1 / 300)
    while minute < minutes:
        ends = minute + rng.uniform(60, 240)
        fleet = rng.randint(agents // 2, agents)
        while minute < min(ends, minutes):
            for _ in range(rng.randint(fleet * 3 // 4, fleet)):
                slot = int((minute * 60 + rng.uniform(0, 20)) / SLOT_S)
                if slot < len(counts):
                    counts[slot] += 1
            minute += rng.uniform(2, 6)
        minute += 120 + rng.expovariate(1 / 480)
    return Demand(MONDAY, counts)


def version_pushes(rng: random.Random, minutes: int, repositories: int = 12) -> Demand:
    """A monorepo's CI: each push starts a dozen jobs at once; pushes come as people work."""
    pushes = _poisson(rng, minutes, lambda minute: 10 * _day_shape(minute))
    return Demand(pushes.begins_at, [n * repositories for n in pushes.counts])


DEMANDS: dict[str, Callable[[random.Random, int], Demand]] = {
    "steady": steady,
    "daily": daily,
    "weekly": weekly,
    "lecture": lecture,
    "agent bursts": agent_bursts,
    "version pushes": version_pushes,
}


def squared_variation(demand: Demand) -> float:
    """The squared coefficient of variation of the gaps between claims: 1 for a Poisson process."""
    times = demand.arrivals
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    return sum((gap - mean) ** 2 for gap in gaps) / len(gaps) / mean**2


def _day_shape(minute: int) -> float:
    """Between 0.03 at night and 1 in mid-morning."""
    hour = minute % DAY_MIN / 60
    morning = math.exp(-(((hour - 10) / 1.8) ** 2))
    afternoon = 0.85 * math.exp(-(((hour - 15) / 2.0) ** 2))
    return max(0.03, morning + afternoon)


def _poisson(rng: random.Random, minutes: int, per_hour_at: Callable[[int], float]) -> Demand:
    counts = []
    for minute in range(minutes):
        mean = per_hour_at(minute) / 60 / SLOTS_PER_MINUTE
        counts.extend(_draw(rng, mean) for _ in range(SLOTS_PER_MINUTE))
    return Demand(MONDAY, counts)


def _draw(rng: random.Random, mean: float) -> int:
    """A Poisson number by Knuth's product of uniform numbers, which is quick for means below ten."""
    limit, product, n = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        n += 1
    return n
