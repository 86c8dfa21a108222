"""What each rule of a pool's size would have cost, on generated demands: `make sizes`.

Each rule is learned on the first half of a demand, and scored on the second. The best fixed size is found on the
second half itself, so that no size that somebody types could be better. The same seed gives the same table.

python -m benchmarks.sizes [--weeks 4] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.demands import DAY_MIN, DEMANDS, squared_variation
from prebuilds.planning.sizing.choosing import Choice, Target, choose, smallest_fixed
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Score, replay
from prebuilds.planning.sizing.rules import Fixed, Rule

LOSERS = 3
"""How many of the rules that were not chosen stand beside the chosen one."""
BOUNDS = Bounds(min=0, max=500)


@dataclass(frozen=True, slots=True)
class Case:
    """One demand, and what a pool for it is to reach."""

    demand: str
    lead_s: float
    target: Target


CASES = (
    Case("steady", 120, Target(hit_rate=0.99)),
    Case("daily", 120, Target(hit_rate=0.99)),
    Case("weekly", 120, Target(hit_rate=0.99)),
    Case("weekly", 120, Target(wait_p95_s=5)),
    Case("lecture", 120, Target(hit_rate=0.99)),
    Case("agent bursts", 30, Target(hit_rate=0.99)),
    Case("agent bursts", 30, Target(hit_rate=0.99, idle_max=15)),
    Case("version pushes", 90, Target(hit_rate=0.99)),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One rule on the second half of a demand."""

    rule: Rule
    score: Score
    idle_ratio: float
    """Its idle members, as a share of those of the best fixed size."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a case came to."""

    case: Case
    variation: float
    best_fixed: Line
    chosen: Line
    losers: list[Line]
    met_in_first_half: bool


def solve(case: Case, weeks: int, seed: int) -> Result:
    """Learn on the first half, score on the second.

    Args:
        weeks: An even number of weeks, at least four for the rules that compare with the week before.
    """
    return solve_demand(case, DEMANDS[case.demand](random.Random(seed), weeks * 7 * DAY_MIN))


def solve_demand(case: Case, demand: Demand) -> Result:
    """Solve a case on a demand of the caller's."""
    half = demand.minutes // 2
    choice = choose(demand.first(half), case.target, BOUNDS, case.lead_s)
    size = smallest_fixed(demand, case.target, BOUNDS, case.lead_s, score_from=half)
    assert size is not None, "a pool of the largest size meets every target here"
    fixed = _score(Fixed(size), demand, case, half)

    def line(rule: Rule) -> Line:
        score = _score(rule, demand, case, half)
        return Line(rule, score, score.idle_mean / fixed.idle_mean)

    losers = [line(rule) for rule in _losers(choice)]
    return Result(case, squared_variation(demand), line(Fixed(size)), line(choice.rule), losers, choice.met)


def _losers(choice: Choice) -> Iterator[Rule]:
    """The cheapest of each other kind of rule that met the target, or that came nearest."""
    kinds = {type(choice.rule)}
    for tried in sorted(choice.tried, key=lambda t: (not t.met, t.score.member_s if t.met else -t.score.hit_rate)):
        if type(tried.rule) not in kinds and len(kinds) <= LOSERS:
            kinds.add(type(tried.rule))
            yield tried.rule


def _score(rule: Rule, demand: Demand, case: Case, score_from: int) -> Score:
    sizes = BOUNDS.settle(rule.sizes(demand, case.lead_s), case.lead_s)
    return replay(demand, sizes, case.lead_s, waits=case.target.waits, score_from=score_from)


def _wanted(target: Target) -> str:
    text = f"p95 wait {target.wait_p95_s:g} s" if target.wait_p95_s is not None else f"hit {target.hit_rate:g}"
    return text if target.idle_max is None else f"{text}, idle {target.idle_max:g}"


def _add(table: Table, result: Result) -> None:
    case = result.case
    first = (f"{case.demand} ({result.variation:.0f})", _wanted(case.target), f"{case.lead_s:g} s")
    lines = [("best fixed", result.best_fixed), ("chosen", result.chosen), *(("", line) for line in result.losers)]
    for n, (mark, line) in enumerate(lines):
        score = line.score
        table.add_row(
            *(first if n == 0 else ("", "", "")),
            mark,
            line.rule.name,
            f"{100 * score.hit_rate:.1f}",
            f"{score.wait_s(0.95):.0f}" if case.target.waits else "-",
            f"{score.idle_mean:.1f}",
            str(score.idle_peak),
            f"{line.idle_ratio:.2f}",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table = Table(
        "demand (variation)", "target", "lead", "", "rule", "hit %", "p95 s", "idle", "peak", "of fixed", box=None
    )
    for case in CASES:
        _add(table, solve(case, arguments.weeks, arguments.seed))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
