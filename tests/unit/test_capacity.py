"""Sharing the capacity of the queue: the level, the turns, and the invariants of each division."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.capacity import Demand, Shares, share_capacity
from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.plan import DELETES_PER_PASS_MAX, plan_preset
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot
from tests.unit.pools import (
    DELETE,
    FAILED,
    HOUR,
    NOW,
    PENDING,
    SECOND,
    TICK,
    creations,
    deployments,
    failed,
    history_of,
    ids,
    pool,
    prebuild,
    prebuilds,
    snapshot,
    whole,
)


def demands(*pending_and_wanted: tuple[int, int]) -> list[Demand]:
    return [Demand(UUID(int=n), *figures) for n, figures in enumerate(pending_and_wanted, 1)]


def filled(demand: Demand, shares: Shares) -> int:
    """What one preset then has pending."""
    return max(demand.pending, min(shares.pending_max(demand.preset_id), demand.pending + demand.wanted))


@pytest.mark.parametrize(
    ("wanted", "capacity", "after"),
    [
        ([(0, 5), (0, 5)], 10, [5, 5]),
        ([(0, 5), (0, 5)], 9, [5, 4]),
        ([(0, 5), (0, 5)], 8, [4, 4]),
        ([(0, 2), (0, 9)], 8, [2, 6]),  # one preset's unused capacity goes to the other
        ([(0, 1), (0, 9), (0, 9)], 8, [1, 4, 3]),
        ([(4, 5), (0, 5)], 6, [4, 2]),  # a preset with much waits for one with little
        ([(4, 5), (0, 5)], 8, [4, 4]),
        ([(4, 5), (0, 5)], 9, [5, 4]),
        ([(7, 0), (0, 5)], 6, [7, 0]),  # more is pending already
        ([(7, 0), (0, 5)], 7, [7, 0]),
        ([(7, 0), (0, 5)], 8, [7, 1]),
        ([(0, 5)], 0, [0]),
        ([(0, 5)], -1, [0]),
        ([(0, 5)], -100, [0]),
        ([(0, 5), (0, 5), (0, 5)], 1, [1, 0, 0]),
        ([(0, 5), (0, 5), (0, 5)], 2, [1, 1, 0]),
        ([(0, 5), (0, 5), (0, 5)], 3, [1, 1, 1]),
    ],
)
def test_capacity_is_filled_from_the_bottom(wanted: list[tuple[int, int]], capacity: int, after: list[int]) -> None:
    found = demands(*wanted)
    shares = share_capacity(found, capacity, rotation=0)
    assert [filled(demand, shares) for demand in found] == after


def test_the_rest_goes_round_by_turns() -> None:
    three = demands((0, 5), (0, 5), (0, 5))
    turns = [share_capacity(three, 5, turn) for turn in range(4)]
    assert {shares.level for shares in turns} == {1}
    assert [shares.favored for shares in turns] == [{*ids(1, 2)}, {*ids(3, 1)}, {*ids(2, 3)}, {*ids(1, 2)}]
    assert turns[0].pending_max(UUID(int=1)) == 2
    assert turns[0].pending_max(UUID(int=3)) == 1


def test_a_preset_with_enough_capacity_takes_no_turn() -> None:
    found = demands((0, 1), (3, 0), (0, 9), (5, 2))
    assert [share_capacity(found, 15, turn).favored for turn in range(3)] == [{*ids(3)}, {*ids(4)}, {*ids(3)}]
    assert share_capacity(found, 12, rotation=1) == Shares(3)


@pytest.mark.parametrize("found", [[], demands((0, 0), (0, 0)), demands((2, 0), (1, 1))])
def test_unused_capacity_is_left_for_the_next_nudged_preset(found: list[Demand]) -> None:
    """A claim's refill between two passes plans with the last pass's level."""
    assert share_capacity(found, 10, rotation=3) == Shares(10)


@pytest.mark.parametrize("capacity", [0, -5])
def test_without_capacity_the_level_is_zero(capacity: int) -> None:
    assert share_capacity([], capacity, rotation=1) == Shares(0)
    assert share_capacity(demands((2, 0), (0, 3)), capacity, rotation=1) == Shares(0)


DEMANDS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8).map(lambda found: demands(*found))


@given(DEMANDS, st.integers(-10, 120), st.integers(0, 10_000))
@settings(deadline=None)
def test_a_division_is_max_min_fair(found: list[Demand], capacity: int, turn: int) -> None:
    shares = share_capacity(found, capacity, turn)
    after = {d.preset_id: filled(d, shares) for d in found}
    pending = sum(d.pending for d in found)
    assert sum(after.values()) <= max(capacity, pending), "never over capacity, unless it was before"
    short = [d for d in found if after[d.preset_id] < d.pending + d.wanted]
    gained = [d for d in found if after[d.preset_id] > d.pending]
    for poor in short:
        assert after[poor.preset_id] >= shares.level, "nobody is left below the level"
        for rich in gained:
            assert after[rich.preset_id] <= after[poor.preset_id] + 1, "none gains while another has less and wants"
    if short:
        assert sum(after.values()) == max(capacity, pending), "nothing is left while somebody wants it"
    assert shares.favored <= {d.preset_id for d in gained}, "a turn is never given to a preset that cannot use it"


@given(st.integers(2, 30), st.data(), st.integers(0, 10_000))
@settings(deadline=None)
def test_each_preset_has_its_turn_when_capacity_is_scarce(presets: int, data: st.DataObject, turn: int) -> None:
    capacity = data.draw(st.integers(1, presets - 1))
    found = demands(*[(0, 3)] * presets)
    rounds = -(-presets // capacity)
    favored = [share_capacity(found, capacity, turn + n).favored for n in range(rounds)]
    assert all(len(turns) == capacity for turns in favored)
    assert frozenset().union(*favored) == {d.preset_id for d in found}


# --- In a plan ---


@pytest.mark.parametrize(
    ("pending", "pending_max", "create", "held"),
    [
        (0, None, 3, None),
        (0, 4, 3, None),
        (0, 3, 3, None),
        (0, 2, 2, Hold.CAPACITY),
        (0, 0, 0, Hold.CAPACITY),
        (0, -1, 0, Hold.CAPACITY),
        (2, 3, 1, None),
        (2, 2, 0, Hold.CAPACITY),
        (2, 1, 0, Hold.CAPACITY),
        (3, 0, 0, None),  # nothing is missing, so that nothing is withheld
    ],
)
def test_a_plan_creates_up_to_its_share(pending: int, pending_max: int | None, create: int, held: str | None) -> None:
    plan = plan_preset(snapshot(*creations(pending)), 1, pending_max)
    assert (len(plan.create), plan.held, plan.held_until) == (create, held, None)


def test_only_creations_that_nobody_has_begun_fill_a_share() -> None:
    begun = [prebuild(1), prebuild(2, status=FAILED), prebuild(3, DELETE, PENDING)]
    begun += [prebuild(4, status=PENDING, build_number=2)]
    assert len(plan_preset(snapshot(*begun, base_instances=5), 1, 2).create) == 2


# --- In a pass ---


def plan_with(capacity: int | None, *pools: PresetSnapshot, passes: int = 0) -> PassPlan:
    return plan_pass(whole(*pools, rules=Rules(max_pending_builds=capacity), passes=passes))


def creates(plan: PassPlan) -> list[int]:
    return [turn.creates for turn in plan.decisions]


@pytest.mark.parametrize(
    ("capacity", "expected", "short"),
    [(None, [3, 3], False), (7, [3, 3], False), (6, [3, 3], False), (5, [3, 2], True), (1, [1, 0], True)],
)
def test_presets_share_the_capacity(capacity: int | None, expected: list[int], short: bool) -> None:
    plan = plan_with(capacity, pool(1), pool(2))
    assert (creates(plan), plan.short_of_capacity) == (expected, short)
    assert (plan.shares is None) is (capacity is None)
    assert [turn.held is not None for turn in plan.decisions] == [created < 3 for created in expected]


def test_the_next_pass_gives_the_rest_to_the_next() -> None:
    three = [pool(n) for n in (1, 2, 3)]
    assert [creates(plan_with(1, *three, passes=n)) for n in range(3)] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


THREE = [prebuild(n) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("deleting", "left"),
    [
        (pool(1, prebuild(1, DELETE, PENDING), base_instances=0), 4),  # recorded, not begun
        (pool(1, prebuild(1, DELETE, FAILED), base_instances=0), 5),
        (pool(1, *THREE, base_instances=0), 2),  # extraneous
        (pool(1, *THREE, base_instances=0, last_invalidated_at=NOW), 2),
        (pool(1, prebuild(1, probe_failures=2), base_instances=0), 4),
        (pool(1, prebuild(1, status=FAILED, ended_at=NOW - HOUR - TICK), base_instances=0), 4),
        (pool(1, prebuild(1, status=FAILED, ended_at=NOW - HOUR), base_instances=0), 5),
        (pool(1, *THREE, active=False), 2),
        (pool(1, prebuild(1, status=FAILED, ended_at=NOW - 2 * HOUR), active=False), 4),
        (pool(1, *prebuilds(9), base_instances=0), 0),
    ],
)
def test_deletions_take_their_capacity_first(deleting: PresetSnapshot, left: int) -> None:
    assert creates(plan_with(5, deleting, pool(2, base_instances=9))) == [0, left]


def test_only_the_deletions_of_this_pass_take_capacity() -> None:
    many = pool(1, *prebuilds(DELETES_PER_PASS_MAX + 50), base_instances=0)
    assert creates(plan_with(DELETES_PER_PASS_MAX + 5, many, pool(2, base_instances=9))) == [0, 5]


def test_creations_to_be_cancelled_are_no_deletions() -> None:
    """They are still pending and keep their capacity; ending them needs no further build."""
    assert creates(plan_with(5, pool(1, *creations(2), active=False), pool(2, base_instances=9))) == [0, 3]


def test_a_preset_that_is_held_otherwise_takes_no_share() -> None:
    backoff = pool(1, history=history_of(failed(SECOND)), base_instances=9)
    plan = plan_with(5, backoff, pool(2, base_instances=9))
    assert creates(plan) == [0, 5]
    assert [turn.held.reason for turn in plan.decisions if turn.held] == [Hold.BACKOFF, Hold.CAPACITY]


def test_a_pass_that_needs_no_more_leaves_room_for_a_nudge() -> None:
    full = pool(1, *prebuilds(3))
    plan = plan_with(5, full)
    assert plan.shares is not None
    claimed = replace(full, prebuilds=full.prebuilds[1:])
    after = plan_preset(claimed, 2, plan.shares.pending_max(full.preset.id))
    assert (len(after.create), after.held) == (1, None)


@given(deployments(), st.integers(-5, 20), st.integers(0, 50))
@settings(deadline=None, max_examples=200)
def test_a_pass_never_queues_more_than_the_capacity(pools: list[PresetSnapshot], room: int, passes: int) -> None:
    pools = [replace(pool, paused=False) for pool in pools]
    queued = sum(row.status is PENDING for pool in pools for row in pool.prebuilds)
    for one in pools:
        begun = plan_preset(one, 1)
        queued += len(begun.delete) + len(begun.pause) + len(begun.resume)
    limit = max(queued + room, 1)
    plan = plan_pass(whole(*pools, rules=replace(pools[0].rules, max_pending_builds=limit), passes=passes))
    assert queued + sum(creates(plan)) <= max(limit, queued)
    assert not plan.short_of_capacity or queued + sum(creates(plan)) >= limit, (
        "nothing is left while somebody waits for it"
    )
