"""What each rule would have held of a demand, next to today's policy, for people who set a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from prebuilds.planning.sizing.choosing import Tried, choose, is_enough
from prebuilds.planning.sizing.demand import SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.replay import Score, replay
from prebuilds.planning.sizing.rules import Fixed, Rule
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.sizing.tiers import Spares, choose_pair

PARTS = 96
"""Number of parts into which the report divides the scored time; for a day, a part is a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Line:
    """One way to size the pool, and what it came to on the scored part of the demand."""

    rule: str
    score: Score
    met: bool
    size_now: int
    """The size that it asks for at the end of the demand."""
    paused: int = 0
    """How many paused prebuilds are held beside it."""
    pair: bool = False
    """Whether it is fixed counts of both tiers, and no rule of a target."""
    today: bool = False
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the time that was scored, under the chosen rule and under today's policy."""

    begins_at: datetime
    claims: int
    size: int
    """The largest of its minutes."""
    missed: int
    today_size: int
    today_missed: int


@dataclass(frozen=True, slots=True)
class WhatIf:
    """All of it."""

    scored_from: datetime
    """Earlier demand only taught the rules."""
    met: bool
    enough_history: bool
    lines: Sequence[Line]
    """Today's policy, the chosen rule, and the best of each other kind of rule."""
    parts: Sequence[Part]


def what_if(
    demand: Demand,
    wanted: SizeTarget,
    today: Sequence[int],
    lead_s: float,
    with_windows: Callable[[Sequence[int]], Sequence[int]],
    spares: Spares | None = None,
    standby: int = 0,
) -> WhatIf:
    """Replay today's sizes and all rules on a demand.

    A rule is chosen as if there was no schedule, as the pool's own is. Each is then shown with the schedule's windows,
    since these go before it, and with today's standby.

    Args:
        today: The sizes of today's policy, one for each minute of the demand and the minute after it.
        lead_s: Seconds from the start of a creation until its prebuild is ready.
        with_windows: Returns the counts of a pool whose rule gives these sizes, one for each minute.
        spares: Paused prebuilds, of which up to `most` are tried beside a fixed size; None: there are none.
        standby: How many paused prebuilds today's policy holds.
    """
    choice = choose(demand, wanted.target, wanted.bounds, lead_s)
    is_known = is_enough(demand)
    begin = demand.minutes // 2 if is_known else 0

    def held(sizes: Sequence[int], paused: int) -> Held:
        kept = None if spares is None else spares.paused(paused)
        waits = wanted.target.waits
        return sizes, replay(demand, sizes, lead_s, waits=waits, score_from=begin, paused=kept), paused

    def held_under(rule: Rule, paused: int = standby) -> Held:
        return held(with_windows(wanted.bounds.settle(rule.sizes(demand, lead_s), lead_s)), paused)

    def line(name: str, held: Held, *, today: bool = False, chosen: bool = False) -> Line:
        sizes, score, paused = held
        met = wanted.target.is_met(score) and wanted.target.is_affordable(score)
        return Line(name, score, met and (is_known or not chosen), sizes[-1], paused, today=today, chosen=chosen)

    held_today = held(today, standby)
    held_then = held_under(choice.rule)
    chosen = line(choice.rule.name, held_then, chosen=True)
    others = [line(one.rule.name, held_under(one.rule)) for one in best_of_each_kind(choice.tried, choice.rule)]
    pair = None
    if spares is not None and is_known:
        pair = choose_pair(demand, wanted.target, wanted.bounds, lead_s, spares, score_from=begin)
    if pair is not None:
        held_pair = held_under(Fixed(pair.ready), pair.paused)
        beside = replace(line(f"fixed {pair.ready}", held_pair), pair=True)
        if beside.met and not (chosen.met and is_cheaper(chosen, beside, spares)):
            chosen, beside, held_then = replace(beside, chosen=True), replace(chosen, chosen=False), held_pair
        others.insert(0, beside)
    return WhatIf(
        scored_from=demand.minute_at(begin),
        met=chosen.met,
        enough_history=is_known,
        lines=[line("today's policy", held_today, today=True), chosen, *others],
        parts=_parts(demand, held_then, held_today, begin),
    )


def is_cheaper(one: Line, other: Line, spares: Spares | None) -> bool:
    """Whether a line costs no more than another one, with what both hold paused."""
    paused_cost = 0.0 if spares is None else spares.cost
    return one.score.priced_s(paused_cost) <= other.score.priced_s(paused_cost)


def best_of_each_kind(tried: Sequence[Tried], besides: Rule) -> list[Tried]:
    """The cheapest of each other kind of rule that met the target, or else the one that came nearest."""
    kinds, best = {type(besides)}, []
    for one in sorted(tried, key=lambda t: (not t.met, t.score.member_s if t.met else -t.score.hit_rate)):
        if type(one.rule) not in kinds:
            kinds.add(type(one.rule))
            best.append(one)
    return best


Held: TypeAlias = tuple[Sequence[int], Score, int]
"""The sizes of a replay, at least one for each minute of the demand, their score, and the count of paused prebuilds."""


def _parts(demand: Demand, chosen: Held, today: Held, begin: int) -> list[Part]:
    length = max(-(-(demand.minutes - begin) // PARTS), 1)
    firsts = range(begin, demand.minutes, length)
    missed, today_missed = (
        Counter((int(at // 60) - begin) // length for at in score.missed_at) for _, score, _ in (chosen, today)
    )

    def size(held: Held, first: int) -> int:
        return max(held[0][first : min(first + length, demand.minutes)])

    return [
        Part(
            demand.minute_at(first),
            sum(demand.counts[first * SLOTS_PER_MINUTE : (first + length) * SLOTS_PER_MINUTE]),
            size(chosen, first),
            missed[n],
            size(today, first),
            today_missed[n],
        )
        for n, first in enumerate(firsts)
    ]
