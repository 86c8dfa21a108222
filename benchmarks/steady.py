"""The least idle members for steady demand, by load, beside what the chosen rule has: a part of `make sizes`.

A pool of a fixed size is a group of lines in Erlang's loss formula, so that its hits and idle members are known
exactly. A mix holds one of two sizes at each time; the mixes here are the best ones by that formula.

python -m benchmarks.steady [--seed 1]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean

from rich.console import Console
from rich.table import Table

from benchmarks.demands import DAY_MIN, steady
from benchmarks.sizes import Case, solve_demand
from prebuilds.planning.sizing.choosing import Target

LOADS = (0.5, 1, 2, 5, 10, 20)
"""Claims per lead time."""
LEAD_S = 120
TARGET = 0.99
TOLERANCE = 0.005
RATIO = 0.7
CLAIMS = 20_000
"""By so many claims a pool chooses its rule, or by those of two weeks."""
DAYS_MAX = 14
DEMANDS = 3
"""Generated demands for each load. The chosen rule's figures are their means."""


@dataclass(frozen=True, slots=True)
class Point:
    """Hits and idle members of a size or of a mix."""

    hit_rate: float
    idle: float


def fixed(load: float) -> Iterator[Point]:
    """The sizes from zero on, without an end."""
    blocked, size = 1.0, 0
    while True:
        yield Point(1 - blocked, size - load * (1 - blocked))
        size += 1
        blocked = load * blocked / (size + load * blocked)


def sizes_up_to(load: float, hit_rate: float) -> list[Point]:
    """The sizes from zero to the smallest one that has this hit rate."""
    points: list[Point] = []
    for point in fixed(load):
        points.append(point)
        if point.hit_rate >= hit_rate:
            return points
    raise AssertionError("unreachable")


def least_mixed(load: float, hit_rate: float) -> float:
    """The idle members of the best mix with this hit rate. Hits gain less by each further member, so that it is one of
    the two sizes around the rate."""
    below, above = sizes_up_to(load, hit_rate)[-2:]
    return below.idle + (above.idle - below.idle) * (hit_rate - below.hit_rate) / (above.hit_rate - below.hit_rate)


def hits_with(load: float, idle: float) -> float:
    """The hit rate of the best mix with so many idle members."""
    points = fixed(load)
    below = next(points)
    for above in points:
        if above.idle >= idle:
            return below.hit_rate + (above.hit_rate - below.hit_rate) * (idle - below.idle) / (above.idle - below.idle)
        below = above
    raise AssertionError("unreachable")


def chosen(load: float, seed: int) -> Point:
    """The hit rate of the chosen rule on new demand, and its idle members as a share of the best fixed size's."""
    per_hour = load * 3600 / LEAD_S
    half = max(int(min(DAYS_MAX, CLAIMS / per_hour / 24)), 1) * DAY_MIN
    case = Case("steady", LEAD_S, Target(hit_rate=TARGET))
    found = [
        solve_demand(case, steady(random.Random(f"{seed} {load} {n}"), 2 * half, per_hour)).chosen
        for n in range(DEMANDS)
    ]
    return Point(mean(line.score.hit_rate for line in found), mean(line.idle_ratio for line in found))


def table(seed: int) -> Table:
    """Make the table."""
    columns = ("load", "best fixed", "hit %", "idle", "mix 99 %", "mix 98.5 %", "hit % at 0.7", "chosen", "hit %")
    made = Table(*columns, box=None)
    for load in LOADS:
        sizes = sizes_up_to(load, TARGET)
        best = sizes[-1]
        found = chosen(load, seed)
        made.add_row(
            f"{load:g}",
            f"{len(sizes) - 1}",
            f"{100 * best.hit_rate:.1f}",
            f"{best.idle:.2f}",
            f"{least_mixed(load, TARGET) / best.idle:.2f}",
            f"{least_mixed(load, TARGET - TOLERANCE) / best.idle:.2f}",
            f"{100 * hits_with(load, RATIO * best.idle):.1f}",
            f"{found.idle:.2f}",
            f"{100 * found.hit_rate:.1f}",
        )
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    Console(width=150).print(table(parser.parse_args().seed))


if __name__ == "__main__":
    main()
