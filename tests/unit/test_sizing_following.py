"""Pools that follow their sizes, with the real planner: bounds, convergence, and no wasted creations.

Each step is a minute: claims take the oldest ready ones, the size is computed, and a pass is planned and carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prebuilds.planning.plan import deletions, plan_preset
from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.demand import SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.following import next_size
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.rules import Fixed, PeakHold, Rate, Rule
from prebuilds.planning.sizing.shrinking import (
    WARRANTED_LEADS,
    WantedSize,
    holding_sizes,
    sizes_of_json,
    sizes_to_json,
)
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.snapshot import Prebuild
from tests.unit.pools import MINUTE, NOW, PENDING, START, SUCCEEDED, snapshot

RULES: tuple[Rule, ...] = (PeakHold(3), PeakHold(15, 1.25), Rate(5, 0.9), Rate(10, 0.99, waits=True), Fixed(4))
COOL_DOWN = timedelta(minutes=Bounds().cool_down_min)


@dataclass
class Driven:
    """A pool that is driven minute by minute."""

    rule: Rule
    bounds: Bounds
    lead_s: float
    now: datetime = NOW
    size: int | None = None
    holding: Sequence[WantedSize] = ()
    minutes: list[int] = field(default_factory=list)
    """Claims of each minute so far."""
    members: dict[UUID, datetime] = field(default_factory=dict)
    """When each was made, oldest first."""
    deleted_ages: list[timedelta] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    shrunk: list[datetime] = field(default_factory=list)
    passes: int = 0

    def ready(self, made: datetime) -> bool:
        return (self.now - made).total_seconds() >= self.lead_s

    def rows(self) -> list[Prebuild]:
        return [
            Prebuild(id, made, 1, START, SUCCEEDED if self.ready(made) else PENDING, claimable=self.ready(made))
            for id, made in self.members.items()
        ]

    def minute(self, claims: int, *, step: timedelta = MINUTE) -> None:
        """Advance the pool's clock by a minute, or by *step*."""
        self.now += step
        for _ in range(claims):
            oldest = next((id for id, made in self.members.items() if self.ready(made)), None)
            if oldest is not None:
                del self.members[oldest]
        self.minutes.append(claims)
        counts = [n for minute in self.minutes for n in (minute, *[0] * (SLOTS_PER_MINUTE - 1))]
        demand = Demand(self.now - len(self.minutes) * MINUTE, counts)
        kept = sizes_of_json(sizes_to_json(self.holding))
        found = next_size(self.rule, demand, self.lead_s, self.bounds, at=self.now, before=self.size, holding=kept)
        since = self.now - timedelta(seconds=WARRANTED_LEADS * self.lead_s)
        before = self.size
        self.size = found.size(sum(since <= made <= self.now for made in self.members.values()))
        self.holding = found.holding
        self.sizes.append(self.size)
        if before is not None and self.size < before:
            self.shrunk.append(self.now)
        self.reconcile()

    def reconcile(self) -> None:
        self.passes += 1
        policy = SizeTarget(Target(hit_rate=0.9), self.bounds, acts=True)
        seen = replace(snapshot(*self.rows(), target=policy, sized=self.size), taken_at=self.now)
        plan = plan_preset(seen, self.passes)
        due = deletions(seen)
        for id in plan.delete:
            assert due[id] == "extraneous"
            self.deleted_ages.append(self.now - self.members.pop(id))
        self.members |= dict.fromkeys(plan.create, self.now)


LEADS = st.sampled_from([20.0, 90.0, 400.0])
CLAIMS = st.lists(st.integers(0, 6) | st.just(0), min_size=1, max_size=90)


def test_a_size_falls_when_the_replay_lets_it_fall() -> None:
    rule, pool = PeakHold(3), Driven(PeakHold(3), Bounds(max=9), 20)
    for claims in (5, *[0] * 30):
        pool.minute(claims)
    demand = Demand(NOW, [n for claims in pool.minutes for n in (claims, 0, 0, 0, 0, 0)])
    assert pool.sizes == pool.bounds.settle(rule.sizes(demand, 20), 20)[1:]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), LEADS, CLAIMS, st.integers(0, 3), st.integers(0, 12))
def test_bounds_hold_and_no_member_is_deleted_before_it_was_worth_its_cost(
    rule: Rule, lead_s: float, claims: list[int], low: int, more: int
) -> None:
    pool = Driven(rule, Bounds(low, low + more), lead_s)
    for count in claims:
        pool.minute(count)
        assert low <= (pool.size or 0) <= low + more
        assert len(pool.members) >= (pool.size or 0), "what is missing is made at once"
    assert all(age >= timedelta(seconds=WARRANTED_LEADS * lead_s) for age in pool.deleted_ages)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), LEADS, st.integers(0, 6), CLAIMS)
def test_constant_demand_comes_to_one_size_and_deletes_nothing_any_more(
    rule: Rule, lead_s: float, claims: int, before: list[int]
) -> None:
    pool = Driven(rule, Bounds(max=50), lead_s)
    for count in before:
        pool.minute(count)
    settled = rule.lookback_min(lead_s) + 2 * pool.bounds.cool_down(lead_s)
    for _ in range(settled):
        pool.minute(claims)
    deleted = len(pool.deleted_ages)
    for _ in range(60):
        pool.minute(claims)
    assert len(set(pool.sizes[-60:])) == 1
    assert len(pool.deleted_ages) == deleted
    for _ in range(int(lead_s // 60) + 1):
        pool.minute(0)
    assert len(pool.members) == pool.size, "converged"


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.none()
        | st.sampled_from(RULES)
        | st.sampled_from([Bounds(0, 4), Bounds(2, 30), Bounds(0, 0)])
        | st.floats(5, 300)
        | st.sampled_from([timedelta(hours=-2), timedelta(minutes=-3), timedelta(0), timedelta(hours=3)]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_bounds_hold_for_any_change_of_target_rule_lead_time_and_clock(changes: list[tuple[int, Any]]) -> None:
    """No size falls below a size desired within the cool-down, measured in the time that really passed."""
    pool = Driven(RULES[0], Bounds(max=30), 60)
    passed = timedelta(0)
    holding: list[tuple[timedelta, int]] = []
    for claims, change in changes:
        step = MINUTE
        match change:
            case Bounds():
                pool.bounds = change
            case float():
                pool.lead_s = change
            case timedelta():
                step = change
            case Rate() | PeakHold() | Fixed():
                pool.rule = change
        pool.minute(claims, step=step)
        passed += max(step, timedelta(0))
        bounds = pool.bounds
        assert bounds.min <= (pool.size or 0) <= bounds.max
        holding.append((passed, pool.holding[-1].size))
        recent = [size for at, size in holding if passed - at <= COOL_DOWN]
        assert (pool.size or 0) >= min(max(recent), bounds.max)


@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 9)), max_size=40),
    st.integers(0, 900),
)
@example([(0, 5), (60, 3)], 60)
def test_the_kept_sizes_are_few_and_include_the_maximum_of_the_cool_down(
    steps: list[tuple[int, int]], cool_down: int
) -> None:
    kept: list[WantedSize] = []
    everything: list[WantedSize] = []
    at = NOW
    for seconds, size in steps:
        at += timedelta(seconds=seconds)
        everything.append(WantedSize(at, size))
        kept = holding_sizes(kept, everything[-1], timedelta(seconds=cool_down))
        recent = [one.size for one in everything if at - one.at <= timedelta(seconds=cool_down)]
        assert kept[0].size == max(recent)
        assert all(older.size > newer.size for older, newer in pairwise(kept)), "no more than there are sizes"


def test_a_lead_time_that_sways_makes_no_size_sway() -> None:
    """The sizes of the last minutes are computed anew with each lead time, so that they alone would sway with it."""
    pool = Driven(PeakHold(30), Bounds(max=50), 59)
    for n in range(120):
        pool.lead_s = 130 if n % 5 == 0 else 59
        pool.minute(3)
    assert not [at for at in pool.shrunk if at > NOW + 20 * MINUTE]


def test_another_rule_shrinks_a_pool_after_the_cool_down() -> None:
    pool = Driven(Fixed(9), Bounds(max=50), 30)
    pool.minute(0)
    pool.rule = Fixed(2)
    for _ in range(Bounds().cool_down_min):
        pool.minute(0)
        assert pool.size == 9
    pool.minute(0)
    assert pool.size == 2


def test_a_clock_that_was_set_back_holds_a_size_up_for_a_cool_down_alone() -> None:
    pool = Driven(Fixed(9), Bounds(max=50), 30)
    pool.minute(0)
    pool.rule = Fixed(2)
    pool.minute(0, step=timedelta(hours=-2))
    for _ in range(Bounds().cool_down_min + 1):
        assert pool.size == 9
        pool.minute(0)
    assert pool.size == 2


def test_prebuilds_just_created_for_claims_are_not_deleted() -> None:
    pool = Driven(Fixed(9), Bounds(max=50), 90)
    for _ in range(5):
        pool.minute(0)
    pool.rule = Fixed(2)
    for n in range(1, 20):
        pool.minute(9 if n == 9 else 0)
        if n in {8, 9, 10, 11}:
            assert (pool.size, len(pool.members)) == (9, 9), "nine were made at minute 9, and take until 10.5"
    assert (pool.size, len(pool.members)) == (2, 2)
    assert min(pool.deleted_ages) >= timedelta(seconds=2 * 90)


@pytest.mark.parametrize("value", [None, 3, "x", [["x", 1]], [[1, 2]], [["2026-01-01T00:00:00+00:00"]], {"a": 1}])
def test_sizes_stored_by_another_release_are_ignored(value: Any) -> None:
    assert sizes_of_json(value) == []
