"""Rules of a pool's size: their results for known demands, and that none of them looks ahead."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.sizing.demand import SLOT_S, SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.formulas import size_where_misses_leave, size_where_misses_wait
from prebuilds.planning.sizing.replay import Bounds, replay
from prebuilds.planning.sizing.rules import ByHour, Fixed, Larger, Mixed, PeakHold, Rate, Rule, highest_before
from prebuilds.planning.sizing.stored import rule_of_json, rule_to_json

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = 60
DAY = 24 * HOUR
WEEK = 7 * DAY
RULES: tuple[Rule, ...] = (
    Fixed(3),
    Mixed(3, 1),
    Rate(10, 0.99),
    Rate(5, 0.95, waits=True, headroom=1.5),
    PeakHold(7),
    PeakHold(30, 1.25),
    ByHour(0.9),
    Larger(ByHour(1.0, 1.25), PeakHold(3)),
)
demands = st.builds(
    lambda begins, minutes: Demand(
        MONDAY + timedelta(minutes=begins), [n for minute in minutes for n in (minute, 0, minute // 2, 0, 0, 1)]
    ),
    st.integers(0, WEEK),
    st.lists(st.integers(0, 9), min_size=1, max_size=150),
)


def per_minute(*counts: int) -> Demand:
    """A demand of so many claims at the beginning of each minute."""
    return Demand(MONDAY, [n for count in counts for n in (count, *[0] * (SLOTS_PER_MINUTE - 1))])


def erlang_b(load: float, size: int) -> float:
    """Erlang's loss formula as it stands in books."""
    terms = [load**n / math.factorial(n) for n in range(size + 1)]
    return terms[-1] / sum(terms)


@pytest.mark.parametrize("load", [0.05, 0.5, 2, 7.3, 20])
@pytest.mark.parametrize("hit_rate", [0.5, 0.9, 0.99, 0.999])
def test_a_size_by_erlang_is_the_smallest_that_loses_few_enough(load: float, hit_rate: float) -> None:
    size = size_where_misses_leave(load, hit_rate)
    assert erlang_b(load, size) <= 1 - hit_rate < erlang_b(load, size - 1)


@pytest.mark.parametrize("load", [0.05, 0.5, 2, 7.3, 20])
@pytest.mark.parametrize("hit_rate", [0.5, 0.9, 0.99, 0.999])
def test_a_size_by_poisson_is_the_smallest_quantile(load: float, hit_rate: float) -> None:
    size = size_where_misses_wait(load, hit_rate)

    def fewer_than(n: int) -> float:
        return sum(math.exp(-load) * load**k / math.factorial(k) for k in range(n))

    assert fewer_than(size) >= hit_rate
    assert fewer_than(size - 1) < hit_rate or size == 0


def test_a_mix_has_one_more_in_the_first_hours_of_each_four() -> None:
    demand = Demand(MONDAY + timedelta(hours=3, minutes=30), [0] * 6 * 150)
    assert Mixed(6, 1).sizes(demand, 60) == [6] * 30 + [7] * 60 + [6] * 61
    assert Mixed(6, 3).sizes(demand, 60) == [6] * 30 + [7] * 121


def test_a_pool_without_claims_holds_no_prebuild() -> None:
    assert size_where_misses_leave(0, 0.99) == size_where_misses_wait(0, 0.99) == 0


def test_claims_are_counted_in_their_slots() -> None:
    times = [MONDAY + timedelta(seconds=s) for s in (-1, 0, 9.9, 10, 59, 119.9, 120)]
    demand = Demand.of_times(times, begins_at=MONDAY, minutes=2)
    assert list(demand.counts) == [2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert (demand.minutes, demand.claims, list(demand.per_minute)) == (2, 5, [4, 1])


def test_the_claims_of_a_slot_are_spread_over_it() -> None:
    counts = [2, 0, 1, 0, 0, 3]
    found = Demand(MONDAY, counts).arrivals
    assert [int(at // SLOT_S) for at in found] == [0, 0, 2, 5, 5, 5]
    assert list(found) == sorted(found) == list(Demand(MONDAY, counts).arrivals), "always in the same way"


def test_the_claims_of_slots_hit_as_often_as_independent_ones() -> None:
    """The exact formula gives this share. Evenly spread, 96.0 % would hit at this lead time of one slot."""
    chance = random.Random(1)  # noqa: S311 - a demand, no secret
    counts = [0] * (2 * 24 * 60 * SLOTS_PER_MINUTE)
    for _ in range(2 * len(counts)):
        counts[chance.randrange(len(counts))] += 1
    demand = Demand(MONDAY, counts)
    score = replay(demand, [4] * demand.minutes, SLOT_S)
    assert score.hit_rate == pytest.approx(1 - 2**4 / 24 / sum(2**n / math.factorial(n) for n in range(5)), abs=0.006)


@pytest.mark.parametrize(("lead_s", "most"), [(1, [4, 3]), (10, [4, 3]), (11, [5, 3]), (20, [5, 3]), (60, [6, 4])])
def test_claims_within_a_lead_time_are_counted(lead_s: float, most: list[int]) -> None:
    demand = Demand(MONDAY, [4, 1, 0, 0, 0, 1, 0, 3, 0, 0, 0, 0])
    assert list(demand.within_lead(lead_s)) == most


def test_a_peak_is_held_for_its_duration() -> None:
    assert PeakHold(2).sizes(per_minute(0, 5, 0, 0, 1), 10) == [0, 0, 5, 5, 0, 1]
    assert PeakHold(2, 1.5).sizes(per_minute(0, 5), 10) == [0, 0, 8]


def test_a_rate_is_that_of_the_minutes_before() -> None:
    steady = Rate(5, 0.99).sizes(per_minute(*[1] * 20), 60)
    assert steady[0] == 0
    assert set(steady[1:]) == {size_where_misses_leave(1, 0.99)}
    assert Rate(5, 0.99).sizes(per_minute(*[1] * 5, *[0] * 6), 60)[-1] == 0


def test_an_hour_is_known_from_the_week_before() -> None:
    lecture = [20 if minute == 9 * HOUR else 0 for minute in range(DAY)]
    week = lecture * 5 + [0] * 2 * DAY
    sizes = ByHour(1.0).sizes(per_minute(*week, *lecture), 120)
    assert set(sizes[: WEEK + 1]) == {0}, "the first week knows no week before it"
    ready_from = WEEK + 9 * HOUR - 3
    assert sizes[ready_from - 1] == 0
    assert set(sizes[ready_from : WEEK + 10 * HOUR]) == {20}
    assert sizes[WEEK + 10 * HOUR] == 0


@pytest.mark.parametrize(
    ("begins", "zone", "offsets", "size"),
    [
        ("2026-03-23", "Europe/Berlin", (1, 2), 20),  # summer time began in between
        ("2026-10-19", "Europe/Berlin", (2, 1), 20),  # and ended
        ("2026-10-19", "Asia/Kolkata", (5.5, 5.5), 20),  # an hour that begins within one of UTC
        ("2026-03-23", "UTC", (1, 2), 0),
    ],
)
def test_an_hour_of_the_week_is_that_of_the_zones_clock(
    begins: str, zone: str, offsets: tuple[float, float], size: int
) -> None:
    monday = datetime.fromisoformat(begins).replace(tzinfo=UTC)
    lectures = [n * WEEK + int((9 - offset) * HOUR) for n, offset in enumerate(offsets)]
    times = [monday + timedelta(minutes=minute) for minute in lectures for _ in range(20)]
    demand = replace(Demand.of_times(times, begins_at=monday, minutes=2 * WEEK), zone=ZoneInfo(zone))
    sizes = ByHour(1.0).sizes(demand, 60)
    assert sizes[lectures[1]] == size
    assert (sizes[lectures[1] - 5], sizes[lectures[1] + HOUR]) == (0, 20 - size)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_kept_as_json(rule: Rule) -> None:
    assert rule_of_json(json.loads(json.dumps(rule_to_json(rule)))) == rule


@pytest.mark.parametrize("rule", [r for r in RULES if r.lookback_min(90) < DAY], ids=lambda rule: rule.name)
@settings(max_examples=30, deadline=None)
@given(demand=demands)
def test_a_rule_needs_no_more_than_it_looks_back(rule: Rule, demand: Demand) -> None:
    minutes = min(rule.lookback_min(90), demand.minutes)
    begin = demand.minutes - minutes
    last = Demand(demand.minute_at(begin), demand.counts[begin * SLOTS_PER_MINUTE :])
    whole = rule.sizes(demand, 90)[-1]
    assert rule.sizes(last, 90)[-1] == whole


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 50))
def test_the_maximum_of_the_preceding_values_is_found(values: list[int], lookback: int) -> None:
    expected = [max(values[max(n - lookback, 0) : n], default=0) for n in range(len(values) + 1)]
    assert highest_before(values, lookback) == expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@settings(max_examples=30, deadline=None)
@given(demand=demands, lead_s=st.sampled_from([5, 30, 90]), data=st.data())
def test_no_rule_looks_ahead(rule: Rule, demand: Demand, lead_s: float, data: st.DataObject) -> None:
    sizes = rule.sizes(demand, lead_s)
    assert len(sizes) == demand.minutes + 1
    minute = data.draw(st.integers(0, demand.minutes))
    assert rule.sizes(demand.first(minute), lead_s) == sizes[: minute + 1]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=60),
    low=st.integers(0, 5),
    more=st.integers(0, 20),
    cool_down=st.integers(0, 12),
)
def test_a_size_keeps_its_bounds_and_does_not_sway(sizes: list[int], low: int, more: int, cool_down: int) -> None:
    bounds = Bounds(low, low + more, cool_down)
    settled = bounds.settle(sizes, 0)
    assert all(bounds.min <= size <= bounds.max for size in settled)
    for n, size in enumerate(settled):
        since = sizes[max(n - cool_down, 0) : n + 1]
        assert size == min(max(*since, bounds.min), bounds.max), "it grows at once"
        if n and size < settled[n - 1]:
            assert all(wished <= size for wished in since) or size == bounds.max, "nobody asked for it in the cool-down"
