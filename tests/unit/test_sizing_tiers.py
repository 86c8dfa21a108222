"""Both tiers in a replay: what paused prebuilds serve, how they are refilled, and the cheapest counts of both."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, Paused, replay
from prebuilds.planning.sizing.tiers import Spares, choose_pair, counts_to_try

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
def test_what_holds_for_any_demand(
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


def test_rare_bursts_of_people_who_may_wait_two_seconds_are_held_paused() -> None:
    pair = choose_pair(bursts(120, 7), Target(wait_p95_s=5), Bounds(max=20), 60, SPARES, score_from=1500)
    assert pair is not None
    assert (pair.ready, pair.paused) == (0, 8)
    assert pair.score.wait_s(0.95) == 2
    dear = Spares(most=8, promotion_s=2, resume_s=3, cost=1.0)
    priced = choose_pair(bursts(120, 7), Target(wait_p95_s=5), Bounds(max=20), 60, dear, score_from=1500)
    assert priced is not None
    assert (priced.ready, priced.paused) == (6, 1), "where they cost the same, as few as may be"
    slow = Spares(most=8, promotion_s=50, resume_s=50)
    found = choose_pair(bursts(120, 7), Target(wait_p95_s=5), Bounds(max=20), 60, slow, score_from=1500)
    assert found is not None
    assert found.ready == 7, "who may not wait so long needs ready ones"


def test_for_a_hit_rate_paused_ones_help_by_the_quicker_refill_alone() -> None:
    """A claim of a paused one is no hit. A burst has seven claims within ten seconds, and a resume takes 3 s."""
    found = choose_pair(bursts(120, 7), Target(hit_rate=0.99), Bounds(max=20), 60, SPARES, score_from=1500)
    assert found is not None
    assert (found.ready, found.paused, found.score.hit_rate) == (5, 2, 1.0)
    slow = Spares(most=8, promotion_s=2, resume_s=50)
    found = choose_pair(bursts(120, 7), Target(hit_rate=0.99), Bounds(max=20), 60, slow, score_from=1500)
    assert found is not None
    assert found.ready == 7
    assert choose_pair(bursts(120, 7), Target(hit_rate=0.99), Bounds(max=6), 60, slow, score_from=1500) is None


def test_few_counts_are_tried_however_many_are_allowed() -> None:
    assert counts_to_try(0) == []
    assert counts_to_try(1) == [1]
    assert counts_to_try(10) == [1, 2, 4, 8, 10]
    assert len(counts_to_try(500)) == 10
