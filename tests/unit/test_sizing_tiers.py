"""Both tiers in a replay: the claims that paused prebuilds serve, their refills, and the cheapest counts of both."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.sizing.choosing import FIRST, Target, choose
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Paused, replay
from prebuilds.planning.sizing.rules import PeakHold, Refilled
from prebuilds.planning.sizing.stored import rule_of_json, rule_to_json
from prebuilds.planning.sizing.tiers import Spares, choose_tiers, counts_to_try

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SPARES = Spares(most=8, promotion_s=2, resume_s=3)


def of_slots(*counts: int, minutes: int) -> Demand:
    return Demand(MONDAY, [*counts, *[0] * (6 * minutes - len(counts))])


def test_a_claim_that_finds_none_ready_takes_a_paused_one() -> None:
    demand = of_slots(*[0] * 6, 4, minutes=4)
    first, second, third, fourth = demand.arrivals
    score = replay(demand, [1] * 4, lead_s=20, paused=Paused(2, promotion_s=2, resume_s=30))
    # The first finds the ready one, and one paused is resumed in its place; the second takes the other one.
    assert (score.claims, score.hits, list(score.waits_s)) == (4, 1, [2])
    assert list(score.missed_at) == [second, third, fourth]
    waiting = replay(demand, [1] * 4, lead_s=20, waits=True, paused=Paused(2, promotion_s=2, resume_s=30))
    # The third waits for the creation that the first has brought about, the fourth for that of the second.
    assert list(waiting.waits_s) == [2, pytest.approx(first + 20 - third), pytest.approx(second + 20 - fourth)]


def test_ready_ones_are_refilled_from_paused_ones_first_and_these_by_creations() -> None:
    demand = of_slots(*[0] * 6, 1, minutes=3)  # at 65 s
    score = replay(demand, [1] * 3, lead_s=20, paused=Paused(1, promotion_s=2, resume_s=3))
    # Two are made by 20 s. At 65 s one is resumed, until 68 s; another one is made, until 85 s, and is paused then.
    assert score.idle_s == pytest.approx(180 - 20 - 3)
    assert score.paused_s == pytest.approx((65 - 20) + (180 - 85))
    assert score.member_s == pytest.approx(180 + 20 + 20), "made, ready, resumed; a second one while it is made"
    assert score.priced_s(0.1) == pytest.approx(score.member_s + score.paused_s / 10)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=6, max_size=90).map(lambda c: c[: len(c) // 6 * 6]),
    sizes=st.lists(st.integers(0, 6), min_size=16, max_size=16),
    paused=st.builds(Paused, st.integers(1, 5), st.floats(0.1, 20), st.floats(0.1, 60)),
    lead_s=st.floats(0.5, 200),
    waits=st.booleans(),
)
def test_a_replay_of_both_tiers_keeps_its_invariants_for_any_demand(
    counts: list[int], sizes: list[int], paused: Paused, lead_s: float, waits: bool
) -> None:
    demand = Demand(MONDAY, counts)
    score = replay(demand, sizes, lead_s, waits=waits, paused=paused)
    assert score.claims == demand.claims == score.hits + len(score.missed_at)
    assert len(score.waits_s) == len(score.missed_at) if waits else len(score.waits_s) <= len(score.missed_at)
    assert all(0 <= wait <= max(lead_s, paused.promotion_s, paused.resume_s) + 1e-6 for wait in score.waits_s)
    assert 0 <= score.paused_s <= paused.count * demand.minutes * 60 + 1e-6
    assert score.idle_peak <= max(sizes)


def bursts(gap_min: int, size: int, minutes: int = 3000) -> Demand:
    """So many claims within ten seconds, every so many minutes."""
    counts = [0] * (6 * minutes)
    counts[:: 6 * gap_min] = [size] * len(counts[:: 6 * gap_min])
    return Demand(MONDAY, counts)


def chosen(
    target: Target, spares: Spares | None, most: int = 20, demand: Demand | None = None
) -> tuple[str, int, bool]:
    """The rule, the paused count and whether they met the target."""
    found = choose_tiers(demand or bursts(120, 7), target, Bounds(max=most), 60, spares)
    return found.rule.name, found.paused, found.met


SLOW = Spares(most=8, promotion_s=50, resume_s=50)
WAIT, HITS = Target(wait_p95_s=5), Target(hit_rate=0.99)


@pytest.mark.parametrize(
    ("target", "spares", "most", "rule", "paused"),
    [
        (WAIT, SPARES, 20, "fixed 0", 8),  # a claim that may wait two seconds gets a paused one
        (WAIT, replace(SPARES, most=3), 20, "fixed 4", 3),  # no more than allowed
        (WAIT, SLOW, 20, "fixed 7", 0),  # a claim that may not wait so long needs a ready one
        (WAIT, replace(SPARES, most=0), 20, "fixed 7", 0),
        (WAIT, None, 20, "fixed 7", 0),
        (HITS, SPARES, 20, "fixed 5", 2),  # a claim of a paused one is no hit, but refills come within a burst
        (HITS, SLOW, 20, "fixed 7", 0),
        (WAIT, SPARES, 0, "fixed 0", 8),  # the paused ones alone meet it
    ],
)
def test_the_cheapest_counts_of_both_tiers_are_chosen(
    target: Target, spares: Spares | None, most: int, rule: str, paused: int
) -> None:
    assert chosen(target, spares, most) == (rule, paused, True)


def test_the_fewest_that_meet_the_target_are_chosen_at_equal_cost() -> None:
    """The seconds in which refills wait decide between equal numbers."""
    rule, paused, met = chosen(WAIT, replace(SPARES, cost=1.0))
    assert (rule, paused, met) in {(f"fixed {7 - n}", n, True) for n in range(8)}


def test_the_counts_that_serve_most_claims_are_chosen_when_none_meets_the_wait() -> None:
    _, paused, met = chosen(WAIT, replace(SPARES, most=4), most=1)
    assert (paused, met) == (4, False)


def test_too_little_history_chooses_nothing() -> None:
    assert chosen(WAIT, SPARES, demand=bursts(120, 7, minutes=1000)) == (FIRST.name, 0, False)


def test_ready_ones_that_are_refilled_by_resumes_are_sized_by_these() -> None:
    demand = bursts(30, 4)
    rule = Refilled(PeakHold(120), 3)
    assert rule.sizes(demand, 60) == PeakHold(120).sizes(demand, 3)
    assert rule.sizes(demand, 2) == PeakHold(120).sizes(demand, 2), "if creations have become quicker than that"
    assert rule_of_json(rule_to_json(rule)) == rule


@settings(max_examples=15, deadline=None)
@given(
    gap_min=st.integers(20, 50),
    size=st.integers(1, 9),
    target=st.sampled_from([WAIT, HITS, Target(hit_rate=0.9, idle_max=2)]),
    spares=st.builds(
        Spares, st.integers(0, 9), st.floats(0.1, 20), st.floats(0.1, 90), st.sampled_from([0.0, 0.1, 0.5, 1.0])
    ),
    bounds=st.builds(Bounds, st.integers(0, 3), st.integers(3, 12)),
)
def test_a_choice_of_both_tiers_keeps_its_bounds_and_costs_no_more_than_one_of_ready_ones(
    gap_min: int, size: int, target: Target, spares: Spares, bounds: Bounds
) -> None:
    demand = bursts(gap_min, size, minutes=1500)
    both = choose_tiers(demand, target, bounds, 60, spares)
    alone = choose(demand, target, bounds, 60)
    assert 0 <= both.paused <= spares.most
    assert all(bounds.min <= n <= bounds.max for n in bounds.settle(both.rule.sizes(demand, 60), 60))
    assert both.met or not alone.met
    assert choose_tiers(demand, target, bounds, 60, spares) == both, "the same question has the same answer"
    if alone.met:
        followed = next(t for t in both.tried if (t.rule, t.paused) == (both.rule, both.paused))
        ready = next(t for t in alone.tried if t.rule == alone.rule)
        assert followed.met
        assert followed.score.priced_s(spares.cost) <= ready.score.member_s


def test_few_counts_are_tried_however_many_are_allowed() -> None:
    assert counts_to_try(0) == []
    assert counts_to_try(1) == [1]
    assert counts_to_try(10) == [1, 2, 4, 8, 10]
    assert len(counts_to_try(500)) == 10
