"""Limits on the members of pools and on the builds that run at a time."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.concurrency import share_concurrent
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.limits import PoolWant, member_shares, share_members
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import Reason, deletions, plan_preset, state_of
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.snapshot import CreationHistory, Prebuild, PresetSnapshot
from tests.unit.pools import (
    DELETE,
    HOUR,
    NOW,
    PENDING,
    RUNNING,
    START,
    SUCCEEDED,
    begin_moves,
    creations,
    failed,
    history_of,
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
        found = replace(found, prebuilds=begin_moves(plan, rows))
    else:
        pytest.fail("it does not come to rest")
    state = state_of(found)
    assert state.missing == state.extraneous == state.starting == state.deleting == 0


# --- Members of an organization's pools ---

WANTS = st.lists(
    st.builds(
        PoolWant, floor=st.integers(0, 20), wanted=st.integers(0, 30), members=st.integers(0, 30), waiting=st.booleans()
    ),
    max_size=8,
)


@pytest.mark.parametrize(
    ("floors", "wanted", "limit", "expected"),
    [
        ([3, 3], [3, 3], 6, [3, 3]),
        ([3, 3], [3, 3], 100, [3, 3]),
        ([3, 3], [3, 3], 0, [0, 0]),
        ([30, 10], [30, 10], 20, [15, 5]),
        ([0, 0], [30, 10], 20, [10, 10]),
        ([0, 0], [30, 4], 20, [16, 4]),
        ([12, 0, 0], [30, 10, 10], 20, [12, 4, 4]),
        ([2, 0], [2, 9], 8, [2, 6]),
    ],
)
def test_floors_come_first_and_the_rest_is_shared_evenly(
    floors: list[int], wanted: list[int], limit: int, expected: list[int]
) -> None:
    wants = [PoolWant(floor, want, 0) for floor, want in zip(floors, wanted, strict=True)]
    assert share_members(wants, limit, rotation=0) == expected


@given(WANTS, st.integers(0, 100), st.integers(0, 50))
def test_shares_use_the_limit_and_never_exceed_it(wants: list[PoolWant], limit: int, rotation: int) -> None:
    shares = share_members(wants, limit, rotation)
    assert sum(shares) == min(limit, sum(want.wanted for want in wants))
    floors = [min(want.floor, want.wanted) for want in wants]
    for share, want, floor in zip(shares, wants, floors, strict=True):
        assert 0 <= share <= want.wanted
        assert share >= floor or sum(floors) > limit
    assert share_members(wants, limit, rotation) == shares


@given(WANTS, st.integers(0, 100), st.integers(0, 50), st.integers(0, 50))
def test_a_pool_keeps_its_share_when_turns_change(wants: list[PoolWant], limit: int, now: int, later: int) -> None:
    shares = share_members(wants, limit, now)
    full = [replace(want, members=share) for want, share in zip(wants, shares, strict=True)]
    assert share_members(full, limit, later) == shares


def test_turns_pass_to_every_pool_that_has_nothing() -> None:
    wants = [PoolWant(1, 1, 0) for _ in range(5)]
    served = [share_members(wants, 2, rotation) for rotation in range(5)]
    assert all(sum(shares) == 2 for shares in served)
    assert [sum(shares[n] for shares in served) for n in range(5)] == [2, 2, 2, 2, 2]


def test_a_waiting_claim_precedes_pools_that_have_a_member() -> None:
    wants = [PoolWant(1, 1, 1), PoolWant(1, 1, 0), PoolWant(1, 2, 0, waiting=True)]
    assert share_members(wants, 1, rotation=0) == [0, 0, 1]


def organization(*found: PresetSnapshot, limit: int) -> list[PresetSnapshot]:
    """The pools of one organization with a limit, each with its share."""
    limited = [
        replace(one, preset=replace(one.preset, id=UUID(int=n), pool_members=limit, organization_id=UUID(int=77)))
        for n, one in enumerate(found, 1)
    ]
    shares = member_shares(whole(*limited))
    return [replace(one, share=shares[one.preset.id]) for one in limited]


def test_a_pool_beyond_its_share_shrinks_and_says_why() -> None:
    large, small = organization(pool(1, *prebuilds(6), base_instances=6), pool(2, base_instances=2), limit=4)
    assert list(deletions(large).values()) == [Reason.POOL_MEMBERS] * 3
    assert plan_preset(large, 1).delete == [p.id for p in prebuilds(3)], "the oldest"
    plan = plan_preset(small, 1)
    assert (plan.create, plan.held) == ([], Hold.POOL_MEMBERS), "there is no room before these are gone"
    decisions = plan_pass(whole(large, small)).decisions
    assert [(one.creates, one.deletes) for one in decisions] == [(0, True), (0, False)]
    assert decisions[1].held == Held(Hold.POOL_MEMBERS)


def test_an_expired_member_is_replaced_within_the_limit() -> None:
    (found,) = organization(pool(1, *prebuilds(4), base_instances=4, last_invalidated_at=NOW), limit=4)
    plan = plan_preset(found, 1)
    assert (len(plan.delete), len(plan.create), plan.held) == (4, 4, None)


def test_the_unused_share_of_a_stuck_preset_goes_to_others() -> None:
    stuck = pool(1, base_instances=5, history=history_of(failed(HOUR), invalid_at=NOW - HOUR))
    _, other = organization(stuck, pool(2, base_instances=5), limit=6)
    assert len(plan_preset(other, 1).create) == 5


def test_a_target_gives_way_down_to_its_min() -> None:
    target = SizeTarget.of_json(
        {"hit_rate": 0.9, "wait_p95_seconds": None, "min": 1, "max": 9, "max_idle": None, "mode": "act"}
    )
    sized, counted = organization(pool(1, base_instances=9, target=target, sized=9), pool(2, base_instances=4), limit=5)
    assert [one.share and one.share.most for one in (sized, counted)] == [1, 4]


def test_without_a_limit_nothing_is_shared() -> None:
    assert member_shares(whole(pool(1), pool(2))) == {}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 20), st.data())
@settings(deadline=None, max_examples=100)
def test_an_organization_stays_within_its_limit_and_comes_to_rest(
    counts: list[int], limit: int, data: st.DataObject
) -> None:
    found = organization(*(pool(n, base_instances=count) for n, count in enumerate(counts, 1)), limit=limit)
    changed = 0
    for number in range(1, 200):
        n = number % len(found)
        if changed < 10 and data.draw(st.booleans()):
            rows = found[n].prebuilds[1:] if data.draw(st.booleans()) else found[n].prebuilds  # a claim
            counts[n] = data.draw(st.integers(0, 9))
            changed_preset = replace(found[n].preset, base_instances=counts[n])
            found[n] = replace(found[n], prebuilds=rows, preset=changed_preset)
            changed += 1
        found = organization(*found, limit=limit)
        plan = plan_preset(found[n], number)
        left = [
            replace(p, status=SUCCEEDED)
            for p in found[n].prebuilds
            if p.id not in plan.delete and p.in_progress is not DELETE
        ]
        made = [Prebuild(i, NOW, 1, START, PENDING) for i in plan.create]
        found[n] = replace(found[n], prebuilds=left + made)
        assert sum(len(one.prebuilds) for one in found) <= limit
        if number > 60 and all(plan_preset(one, number).empty for one in organization(*found, limit=limit)):
            break
    else:
        pytest.fail("it does not come to rest")
    assert sum(len(one.prebuilds) for one in found) == min(limit, sum(counts))
