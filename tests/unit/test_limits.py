"""Limits on what is there, or under way, at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.holds import Hold
from prebuilds.planning.limits import share_concurrent
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import plan_preset, state_of
from prebuilds.planning.snapshot import CreationHistory, Prebuild, PresetSnapshot
from tests.unit.pools import (
    DELETE,
    NOW,
    PENDING,
    RUNNING,
    START,
    SUCCEEDED,
    creations,
    pool,
    pools,
    prebuild,
    prebuilds,
    whole,
)

SMALL = st.integers(0, 30)


@pytest.mark.parametrize(
    ("limit", "starting", "deleting", "creates", "deletes", "expected"),
    [
        (None, 9, 9, 5, 7, (5, 7)),
        (10, 0, 0, 5, 4, (5, 4)),
        (10, 0, 0, 50, 50, (5, 5)),
        (10, 0, 0, 50, 0, (10, 0)),
        (10, 0, 0, 0, 50, (0, 10)),
        (10, 0, 0, 50, 3, (7, 3)),
        (10, 0, 0, 3, 50, (3, 7)),
        (10, 5, 4, 45, 45, (0, 1)),
        (10, 4, 5, 45, 45, (1, 0)),
        (10, 10, 0, 45, 45, (0, 0)),
        (10, 30, 0, 45, 45, (0, 0)),
        (1, 0, 0, 5, 5, (0, 1)),
        (3, 0, 0, 5, 5, (1, 2)),
    ],
)
def test_creations_and_deletions_share_what_may_be_under_way(
    limit: int | None, starting: int, deleting: int, creates: int, deletes: int, expected: tuple[int, int]
) -> None:
    found = share_concurrent(limit, starting=starting, deleting=deleting, creates=creates, deletes=deletes)
    assert found == expected


@given(st.integers(1, 20), SMALL, SMALL, SMALL, SMALL)
def test_no_more_than_the_limit_begins_and_no_room_is_left_unused(
    limit: int, starting: int, deleting: int, creates: int, deletes: int
) -> None:
    begun = share_concurrent(limit, starting=starting, deleting=deleting, creates=creates, deletes=deletes)
    assert 0 <= begun[0] <= creates
    assert 0 <= begun[1] <= deletes
    assert sum(begun) == min(creates + deletes, max(limit - starting - deleting, 0))


def test_a_plan_keeps_to_max_concurrent_and_says_so() -> None:
    found = pool(1, *creations(2), prebuild(9, DELETE, RUNNING), base_instances=9, max_concurrent=5)
    plan = plan_preset(found, 1)
    assert (len(plan.create), plan.delete, plan.held) == (2, [], Hold.MAX_CONCURRENT)
    (decision,) = plan_pass(whole(found)).decisions
    assert (decision.creates, decision.held and decision.held.reason) == (2, Hold.MAX_CONCURRENT)


def test_a_full_preset_has_no_work() -> None:
    found = pool(1, *prebuilds(3), *creations(2), base_instances=9, last_invalidated_at=NOW, max_concurrent=2)
    (decision,) = plan_pass(whole(found)).decisions
    assert not decision.has_work
    assert plan_preset(found, 1).empty


def test_deletions_after_cancellations_come_at_once() -> None:
    found = pool(1, *prebuilds(3), *creations(2), active=False, max_concurrent=2)
    plan = plan_preset(found, 1)
    assert (len(plan.delete), len(plan.cancel), plan.more) == (0, 2, True)
    assert plan_pass(whole(found)).decisions[0].deletes


@given(pools(), st.integers(1, 6))
@settings(deadline=None, max_examples=200)
def test_a_pool_with_max_concurrent_comes_to_rest_and_keeps_to_it(found: PresetSnapshot, limit: int) -> None:
    found = replace(found, preset=replace(found.preset, max_concurrent=limit), history=CreationHistory())
    for number in range(1, 80):
        plan = plan_preset(found, number)
        (decision,) = plan_pass(whole(found, rules=replace(found.rules, max_pending_builds=None))).decisions
        assert decision.has_work == (not plan.empty)
        begun = len(plan.create) + len(plan.delete)
        under_way = sum(p.in_progress in (START, DELETE) for p in found.prebuilds)
        assert begun == 0 or begun + under_way <= limit
        if plan.empty and not any(p.in_progress for p in found.prebuilds):
            break
        deleted = {*plan.delete, *plan.cancel}
        rows = [
            replace(p, status=SUCCEEDED) if p.in_progress else p
            for p in found.prebuilds
            if p.id not in deleted and p.in_progress is not DELETE
        ]
        deleting = [replace(p, transition=DELETE, status=PENDING) for p in found.prebuilds if p.id in plan.delete]
        rows += deleting + [Prebuild(i, NOW, 1, START, PENDING) for i in plan.create]
        found = replace(found, prebuilds=rows)
    else:
        pytest.fail("it does not come to rest")
    state = state_of(found)
    assert state.missing == state.extraneous == state.starting == state.deleting == 0
