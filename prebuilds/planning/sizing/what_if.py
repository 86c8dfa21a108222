"""What each rule would have held of a demand, next to today's policy, for people who set a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from prebuilds.planning.sizing.choosing import Tried, is_enough
from prebuilds.planning.sizing.demand import SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.replay import Score, replay
from prebuilds.planning.sizing.rules import Refilled, Rule
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.sizing.tiers import Spares, choose_tiers

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

    A rule is chosen as if there was no schedule, as the pool's own is (`choose_tiers`). Each is then shown with the
    schedule's windows, since these go before it; and with the paused prebuilds that were chosen with it, or with
    today's standby where none are to be chosen.

    Args:
        today: The sizes of today's policy, one for each minute of the demand and the minute after it.
        lead_s: Seconds from the start of a creation until its prebuild is ready.
        with_windows: Returns the counts of a pool whose rule gives these sizes, one for each minute.
        spares: Paused prebuilds, of which up to `most` may be chosen; None: there are none.
        standby: How many paused prebuilds today's policy holds.
    """
    choice = choose_tiers(demand, wanted.target, wanted.bounds, lead_s, spares)
    is_known = is_enough(demand)
    begin = demand.minutes // 2 if is_known else 0

    def held(sizes: Sequence[int], paused: int) -> Held:
        kept = None if spares is None else spares.paused(paused)
        waits = wanted.target.waits
        return sizes, replay(demand, sizes, lead_s, waits=waits, score_from=begin, paused=kept), paused

    chooses_paused = is_known and spares is not None and spares.most > 0

    def held_under(rule: Rule, paused: int) -> Held:
        sizes = with_windows(wanted.bounds.settle(rule.sizes(demand, lead_s), lead_s))
        return held(sizes, paused if chooses_paused else standby)

    def line(name: str, held: Held, *, today: bool = False, chosen: bool = False) -> Line:
        sizes, score, paused = held
        met = wanted.target.is_met(score) and wanted.target.is_affordable(score)
        return Line(name, score, met and (is_known or not chosen), sizes[-1], paused, today=today, chosen=chosen)

    held_today = held(today, standby)
    held_then = held_under(choice.rule, choice.paused)
    chosen = line(choice.rule.name, held_then, chosen=True)
    others = [
        line(one.rule.name, held_under(one.rule, one.paused))
        for one in best_of_each_kind(choice.tried, choice.rule, choice.paused, spares)
    ]
    return WhatIf(
        scored_from=demand.minute_at(begin),
        met=chosen.met,
        enough_history=is_known,
        lines=[line("today's policy", held_today, today=True), chosen, *others],
        parts=_parts(demand, held_then, held_today, begin),
    )


def best_of_each_kind(tried: Sequence[Tried], besides: Rule, paused: int, spares: Spares | None) -> list[Tried]:
    """The cheapest of each other kind of rule that met the target, or else the one that came nearest.

    The same rule with and without paused prebuilds is of two kinds.
    """
    cost = 0.0 if spares is None else spares.cost
    kinds, best = {_kind(besides, paused)}, []
    for one in sorted(tried, key=lambda t: (not t.met, t.score.priced_s(cost) if t.met else -t.score.hit_rate)):
        kind = _kind(one.rule, one.paused)
        if kind not in kinds:
            kinds.add(kind)
            best.append(one)
    return best


def _kind(rule: Rule, paused: int) -> tuple[type[Rule], bool]:
    return type(rule.rule if isinstance(rule, Refilled) else rule), paused > 0


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
