"""A replay of a pool's past, and the choice of the cheapest rule that met the target."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.demands import DAY_MIN, DEMANDS, agent_bursts, squared_variation
from benchmarks.sizes import CASES, Case, solve
from prebuilds.planning.sizing.choosing import FIRST, Target, choose
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.replay import Bounds, replay
from prebuilds.planning.sizing.rules import Fixed

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def seeded(seed: int) -> random.Random:
    """The same numbers in each run."""
    return random.Random(seed)  # noqa: S311 - a demand, no secret


def of_slots(*counts: int, minutes: int) -> Demand:
    return Demand(MONDAY, [*counts, *[0] * (6 * minutes - len(counts))])


def test_a_pool_serves_what_it_holds_and_is_whole_a_lead_time_later() -> None:
    demand = of_slots(0, 0, 0, 3, 0, 0, 0, 2, minutes=3)  # three at 30 s, two at 70 s
    score = replay(demand, [2] * 3, lead_s=20)
    assert (score.claims, score.hits, score.idle_peak) == (5, 4, 2)
    assert score.hit_rate == 0.8
    # Ready from 20 s on; away for 20 s each: taken at 31.67, 35, 72.5 and 77.5 s.
    assert score.idle_s == pytest.approx(2 * (180 - 20) - 4 * 20)
    assert score.member_s == pytest.approx(2 * 180), "refilled at once: being made counts, too"


def test_claims_within_a_second_of_a_refill_are_refilled_together_after_it() -> None:
    demand = of_slots(0, 0, 0, 60, minutes=3)
    first, *_, last = demand.arrivals
    score = replay(demand, [60] * 3, lead_s=20)
    together = replay(of_slots(0, 0, 0, 1, minutes=3), [60] * 3, lead_s=20)
    assert (score.hits, together.member_s) == (60, 60 * 180), "a single claim is refilled at once"
    missing_s = 60 * 180 - score.member_s
    assert 8 < last - first < 10
    assert 0.3 * 60 < missing_s < 0.6 * 60, "of a second's claims, each waits for half of one on average"


def test_a_claim_that_waits_gets_the_next_one_and_one_more_is_made_for_it() -> None:
    demand = of_slots(0, 0, 0, 2, minutes=3)
    first, second = demand.arrivals
    score = replay(demand, [1] * 3, lead_s=20, waits=True)
    assert (score.claims, score.hits) == (2, 1)
    waited = pytest.approx(first + 20 - second)
    assert list(score.waits_s) == [waited], "the refill of the first is begun when it is taken"
    assert (score.wait_s(0.5), score.wait_s(0.95)) == (0.0, waited)


def test_a_smaller_size_deletes_what_is_ready_and_what_is_still_made() -> None:
    score = replay(of_slots(minutes=4), [4, 4, 1, 1], lead_s=30)
    assert score.idle_s == pytest.approx(4 * 90 + 1 * 120)
    late = replay(of_slots(minutes=4), [4, 1, 1, 1], lead_s=90)
    assert late.idle_s == pytest.approx(1 * 150), "four were being made when one became enough"


def test_only_demand_after_score_from_is_scored() -> None:
    demand = of_slots(3, *[0] * 11, 1, minutes=3)
    whole, second = replay(demand, [1] * 3, lead_s=5), replay(demand, [1] * 3, lead_s=5, score_from=2)
    assert (whole.claims, second.claims, second.hits, second.minutes) == (4, 1, 1, 1)
    assert second.idle_mean == pytest.approx(55 / 60)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=6, max_size=120).map(lambda c: c[: len(c) // 6 * 6]),
    sizes=st.lists(st.integers(0, 12), min_size=21, max_size=21),
    lead_s=st.floats(0.5, 200),
    waits=st.booleans(),
)
def test_a_replay_keeps_its_invariants_for_any_demand_and_sizes(
    counts: list[int], sizes: list[int], lead_s: float, waits: bool
) -> None:
    demand = Demand(MONDAY, counts)
    score = replay(demand, sizes, lead_s, waits=waits)
    assert score.claims == demand.claims
    assert score.hits + len(score.waits_s) == score.claims if waits else not score.waits_s
    assert all(0 <= wait <= lead_s + 1e-6 for wait in score.waits_s), "one is made for each claim that waits"
    assert 0 <= score.idle_s <= score.member_s + 1e-6
    assert score.idle_peak <= max(sizes)
    assert score.idle_s <= score.idle_peak * demand.minutes * 60 + 1e-6


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=60, max_size=60), lead_s=st.sampled_from([5.0, 45.0, 130.0]))
def test_a_larger_fixed_size_never_serves_fewer(counts: list[int], lead_s: float) -> None:
    demand = Demand(MONDAY, counts)
    hits = [replay(demand, Fixed(size).sizes(demand, lead_s), lead_s).hits for size in range(8)]
    assert hits == sorted(hits)


def test_too_little_history_holds_the_peak() -> None:
    choice = choose(of_slots(*[1] * 600, minutes=600), Target(hit_rate=0.99), Bounds(), 60)
    assert (choice.rule, choice.tried, choice.met) == (FIRST, (), False)


def test_the_cheapest_rule_that_met_the_target_is_chosen() -> None:
    demand = DEMANDS["daily"](seeded(3), 3 * DAY_MIN)
    choice = choose(demand, Target(hit_rate=0.97), Bounds(max=50), 120)
    met = [tried for tried in choice.tried if tried.met]
    assert choice.met
    assert choice.rule == met[0].rule
    assert met[0].score.member_s == min(tried.score.member_s for tried in met)


def test_a_limit_of_idle_members_is_kept_and_reported() -> None:
    demand = agent_bursts(seeded(3), 3 * DAY_MIN)
    free = choose(demand, Target(hit_rate=0.99), Bounds(max=100), 30)
    bound = choose(demand, Target(hit_rate=0.99, idle_max=8), Bounds(max=100), 30)
    chosen = next(tried for tried in bound.tried if tried.rule == bound.rule)
    assert free.met
    assert not bound.met
    assert chosen.score.idle_mean <= 8
    assert chosen.score.hit_rate == max(tried.score.hit_rate for tried in bound.tried if tried.affordable)


def test_an_unreachable_target_follows_the_rule_that_came_nearest() -> None:
    demand = agent_bursts(seeded(3), 2 * DAY_MIN)
    choice = choose(demand, Target(hit_rate=0.99), Bounds(max=2), 30)
    assert not choice.met
    assert max(tried.score.hit_rate for tried in choice.tried) < 0.99


def test_agents_come_in_bursts() -> None:
    assert squared_variation(agent_bursts(seeded(1), 14 * DAY_MIN)) > 100


@pytest.mark.parametrize(
    ("case", "hit_min", "idle_ratio_max"),
    [(CASES[1], 0.985, 0.7), (CASES[6], 0.97, 0.6)],
    ids=["daily", "agent bursts"],
)
def test_the_chosen_rule_reaches_on_new_demand_what_it_was_chosen_for(
    case: Case, hit_min: float, idle_ratio_max: float
) -> None:
    result = solve(case, weeks=2, seed=1)
    assert result.chosen.score.hit_rate >= hit_min
    assert result.chosen.idle_ratio <= idle_ratio_max


def test_the_newest_claims_are_a_day_of_them_unless_it_is_a_very_busy_one() -> None:
    calm = of_slots(*[1] * (3 * 1440 * 6), minutes=3 * 1440)
    assert calm.newest(10_000).minutes == 1440 + 226, "the claims allow for more than a day"
    assert calm.newest(1000).minutes == 1440
    assert calm.newest(100).minutes == 166, "with more than ten times as many there is no day"
