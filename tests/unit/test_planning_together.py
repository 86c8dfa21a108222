"""Rollouts, standbys, limits and changed counts at the same time: bounds hold, passes find what presets find, and it
comes to rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.canaries import CanaryPolicy
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.rollouts import RolloutPolicy, RolloutState, Strategy
from tests.unit.pools import START
from tests.unit.simulated_pools import BUILD, NAMES, Pools

POOLS = st.builds(
    Pools,
    policy=st.builds(
        RolloutPolicy,
        strategy=st.sampled_from([Strategy.SURGE, Strategy.SURGE, Strategy.RECREATE]),
        max_surge=st.sampled_from(["25%", 1, 4]),
        max_unavailable=st.sampled_from([0, 1, "30%"]),
    ),
    desired=st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 7))),
    standby=st.fixed_dictionaries(dict.fromkeys(NAMES, st.sampled_from([0, 0, 1, 3]))),
    limit=st.none() | st.integers(0, 30),
    concurrent=st.none() | st.integers(1, 6),
)
KINDS = (
    *("claim", "pass", "pass", "time", "fail", "version", "bad"),
    *("desired", "standby", "wait", "limit", "invalidate", "pause"),
)
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES), st.integers(0, 20)), max_size=40)


@given(POOLS, EVENTS)
@settings(deadline=None, max_examples=60)
def test_everything_at_once_keeps_its_bounds_and_comes_to_rest(pools: Pools, events: list[Any]) -> None:
    for kind, name, number in events:
        pools.happen(kind, name, number)
    pools.waiting = dict.fromkeys(NAMES, 0)
    pools.bad = False
    pools.made.clear()  # what holds creations is lifted
    if pools.rollout is not None and pools.rollout.state is RolloutState.PAUSED:
        pools.rollout = replace(pools.rollout, state=RolloutState.RUNNING)
    pools.finish(timedelta(minutes=2))
    pools.writes = 0
    pools.settle()
    wanted = sum(pools.desired.values()) + sum(pools.standby.values())
    assert pools.limit is None or pools.members() <= pools.limit
    if pools.limit is None or pools.limit >= wanted + 8:  # with room for a surge
        assert pools.rollout is None, "the rollout ends"
        for name in NAMES:
            found = [row for row in pools.rows[name, pools.version].values() if not row.evidence]
            assert sum(row.claimable for row in found) == pools.desired[name]
            assert sum(row.paused for row in found) == pools.standby[name]
            assert pools.members(name) == pools.desired[name] + pools.standby[name]


@given(POOLS, EVENTS)
@settings(deadline=None, max_examples=30)
def test_a_bad_version_leaves_the_pools_standing(pools: Pools, events: list[Any]) -> None:
    pools.policy = replace(pools.policy, strategy=Strategy.SURGE)
    pools.settle()
    for kind, name, number in events:
        if kind not in ("version", "bad", "pause", "fail"):
            pools.happen(kind, name, number)
    pools.waiting = dict.fromkeys(NAMES, 0)
    pools.settle()
    # Compare the sum: the odd member of a limit goes to either pool.
    least = sum(pools.ready(name) - pools.policy.unavailable(pools.desired[name]) for name in NAMES)
    pools.activate()
    pools.bad = True
    pools.settle()
    assert sum(map(pools.ready, NAMES)) >= least, "the old one stands"
    for name in NAMES * 2:
        pools.claim(name)
    pools.settle()
    assert sum(map(pools.ready, NAMES)) >= least, "and is refilled"


@given(POOLS, st.integers(1, 4), EVENTS)
@settings(deadline=None, max_examples=30)
def test_generations_that_are_planned_alone_keep_to_one_max_concurrent(
    pools: Pools, concurrent: int, events: list[Any]
) -> None:
    """Each write is checked against what is under way in all of them."""
    pools.policy = replace(pools.policy, strategy=Strategy.RECREATE)
    pools.settle()
    pools.concurrent = concurrent
    pools.activate()
    for kind, name, number in events:
        pools.happen(kind, name, number)
    pools.waiting, pools.bad = dict.fromkeys(NAMES, 0), False
    pools.made.clear()
    pools.settle()
    assert all(key[1] == pools.version or not any(r.running for r in rows.values()) for key, rows in pools.rows.items())


def pools_of(desired: int, *, standby: int = 0, limit: int | None = None, policy: RolloutPolicy | None = None) -> Pools:
    """Make one pool that has what it wants, and another one that wants nothing."""
    found = Pools(
        policy=policy or RolloutPolicy(),
        desired={"a": desired, "b": 0},
        standby={"a": standby, "b": 0},
        limit=limit,
        concurrent=None,
    )
    found.settle()
    return found


def test_recreating_waits_for_no_build_of_the_old_version() -> None:
    pools = Pools(
        policy=RolloutPolicy(strategy=Strategy.RECREATE),
        desired={"a": 5, "b": 0},
        standby={"a": 3, "b": 0},
        limit=None,
        concurrent=None,
    )
    pools.reconcile()
    pools.finish(timedelta(0))  # their builds begin
    pools.activate()
    pools.reconcile()
    assert (len(pools.rows["a", 1]), len(pools.rows["a", 2])) == (8, 8)
    pools.settle()
    assert pools.members("a") == 8


def test_a_limit_on_pool_members_leaves_the_old_version_standing_beside_a_bad_one() -> None:
    pools = pools_of(4, limit=6)
    pools.activate()
    pools.bad = True
    pools.settle()
    assert (pools.ready("a"), pools.rollout and pools.rollout.state) == (4, RolloutState.FAILED)
    pools.claim("a")
    pools.settle()
    assert pools.ready("a") == 4, "what claims take is made from the old version"


def test_a_version_of_which_nothing_was_ready_has_not_rolled_out() -> None:
    pools = pools_of(1)
    pools.activate()
    pools.claim("a")
    pools.reconcile()
    assert pools.rollout is not None, "the claim got a member of the old one"
    pools.bad = True
    pools.settle()
    assert pools.ready("a") == 1


def test_a_rollout_ends_at_what_a_limit_on_pool_members_allows() -> None:
    pools = pools_of(6, limit=4, policy=RolloutPolicy(max_unavailable=1))
    pools.activate()
    pools.settle()
    assert (pools.ready("a"), pools.rollout) == (4, None)


def test_a_rollout_ends_although_claims_never_pause_and_the_old_version_has_a_standby() -> None:
    pools = pools_of(3, standby=2)
    pools.activate()
    for _ in range(100):
        if pools.ready("a"):
            pools.claim("a")
        pools.reconcile()
        pools.finish(timedelta(seconds=2))
        if pools.rollout is None:
            return
    pytest.fail("it does not end")


def test_the_standby_is_replaced_last_and_never_runs_out() -> None:
    pools = pools_of(4, standby=3)
    pools.activate()
    seen = [pools.idle("a")]
    for _ in range(40):
        pools.reconcile()
        assert pools.members("a") <= 4 + 1 + 3 + 1
        pools.finish(BUILD)
        old_ready = sum(row.running for row in pools.rows["a", 1].values())
        assert not (old_ready and 2 in pools.idle("a")), "ready ones first"
        if (found := pools.idle("a")) != seen[-1]:
            seen.append(found)
    assert seen == [{1: 3}, {1: 3, 2: 1}, {1: 2, 2: 1}, {1: 2, 2: 2}, {1: 1, 2: 2}, {1: 1, 2: 3}, {2: 3}]
    assert (pools.ready("a"), pools.rollout) == (4, None)


@pytest.mark.parametrize("state", [RolloutState.FAILED, RolloutState.PAUSED])
def test_the_standby_of_the_old_version_is_used_and_refilled_while_it_stands(state: RolloutState) -> None:
    pools = pools_of(3, standby=2)
    pools.activate()
    pools.bad = True
    if state is RolloutState.PAUSED:
        assert pools.rollout is not None
        pools.rollout = replace(pools.rollout, state=state)
    pools.settle()
    for _ in range(4):
        pools.claim("a")
    pools.reconcile()
    assert sum(row.in_progress is START for row in pools.rows["a", 1].values()) == 5 - 1, "one is paused still"
    pools.settle()
    assert (pools.ready("a"), pools.idle("a"), pools.rollout and pools.rollout.state) == (3, {1: 2}, state)


def test_a_canary_leaves_the_standby_to_the_old_version() -> None:
    pools = pools_of(4, standby=3, policy=RolloutPolicy(canary=CanaryPolicy(25, timedelta(minutes=30), 20, 5)))
    pools.activate()
    assert pools.rollout is not None
    pools.rollout = replace(pools.rollout, canary=True)
    pools.settle()
    for _ in range(6):
        pools.claim("a")
    pools.settle()
    new_ready = sum(row.claimable for row in pools.rows["a", 2].values())
    assert (pools.ready("a"), new_ready, pools.idle("a")) == (4, 1, {1: 3})
    pools.rollout = replace(pools.rollout, canary=False)
    pools.settle()
    assert (pools.ready("a"), pools.idle("a"), pools.rollout) == (4, {2: 3}, None)


def test_a_finished_pool_has_its_standby_while_another_pool_of_the_template_has_failed() -> None:
    pools = pools_of(3, standby=2)
    pools.desired["b"] = 2
    pools.settle()
    pools.activate()
    pools.bad, pools.bad_names = True, ("b",)
    pools.settle()
    assert pools.rollout is not None
    assert pools.rollout.state is RolloutState.FAILED
    assert (pools.ready("a"), pools.idle("a")) == (3, {2: 2})
    for _ in range(4):
        pools.claim("a")
    pools.settle()
    assert (pools.ready("a"), pools.idle("a"), pools.ready("b")) == (3, {2: 2}, 2)


def test_a_surge_gives_way_when_the_limit_on_pool_members_is_lowered() -> None:
    pools = pools_of(8, limit=20)
    pools.activate()
    pools.reconcile()
    assert pools.members() == 10
    assert pools.rollout is not None
    pools.rollout = replace(pools.rollout, state=RolloutState.PAUSED)
    pools.limit = 8
    pools.settle()
    assert (pools.members(), pools.ready("a")) == (8, 8)


def test_no_more_are_resumed_than_the_limit_on_pool_members_allows() -> None:
    pools = pools_of(3, standby=2, limit=5)
    pools.desired["a"], pools.limit = 6, 4
    plan = plan_preset(pools.one(("a", 1)), 99)
    assert (len(plan.resume), len(plan.delete), plan.held) == (1, 1, "pool_members")
