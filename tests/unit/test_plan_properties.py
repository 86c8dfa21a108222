"""The invariants of every plan, and that executed plans come to rest."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.plan import deletions, plan_preset, state_of
from prebuilds.planning.snapshot import CreationHistory, Prebuild, PresetSnapshot, is_expired
from prebuilds.planning.state import desired_at
from tests.unit.pools import (
    CANCELED,
    CANCELING,
    DELETE,
    NOW,
    PAUSE,
    PENDING,
    START,
    SUCCEEDED,
    begin_moves,
    by_id,
    pools,
)

SHARES = st.none() | st.integers(-1, 15)


@given(pools(), SHARES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_a_plan_touches_only_what_it_may(pool: PresetSnapshot, share: int | None, shuffle: random.Random) -> None:
    plan, rows = plan_preset(pool, 5, share), by_id(pool.prebuilds)
    assert all(rows[i].running or rows[i].paused or (rows[i].evidence and not rows[i].kept) for i in plan.delete)
    assert all(rows[i].running for i in plan.pause)
    assert all(rows[i].paused for i in plan.resume)
    assert all(rows[i].creation_pending for i in plan.cancel)
    every = [*plan.create, *plan.delete, *plan.cancel, *plan.pause, *plan.resume]
    assert len(every) == len(set(every))
    assert not plan.cancel if pool.preset.active else not (plan.create or plan.pause or plan.resume)
    assert plan.delete == [i for i in deletions(pool) if i in plan.delete]
    mixed = list(pool.prebuilds)
    shuffle.shuffle(mixed)
    assert plan_preset(replace(pool, prebuilds=mixed), 5, share) == plan, "the rows' order does not matter"
    assert plan_preset(replace(pool, paused=True), 5, share).empty


@given(pools(), SHARES)
@settings(deadline=None, max_examples=200)
def test_a_plan_never_makes_too_many_and_never_leaves_too_few(pool: PresetSnapshot, share: int | None) -> None:
    if not pool.preset.active:
        pool = replace(pool, preset=replace(pool.preset, active=True))
    plan, at = plan_preset(pool, 5, share), pool.taken_at
    target = desired_at(pool.preset, at).instances
    good = [
        p
        for p in pool.prebuilds
        if p.running and p.probe_failures < 2 and not is_expired(pool.preset, p.created_at, at)
    ]
    left = len([p for p in good if p.id not in plan.delete and p.id not in plan.pause])
    assert left == min(len(good), target), "a good one goes only beyond the target, and then it does"
    starting = sum(p.in_progress is START for p in pool.prebuilds)
    idle = [p for p in pool.prebuilds if p.paused and not is_expired(pool.preset, p.created_at, at)]
    put_away = len([p for p in idle if p.id not in plan.delete]) + len(plan.pause)
    put_away += sum(p.in_progress is PAUSE for p in pool.prebuilds)
    lacking = max(target - left - starting - len(plan.resume), 0)
    wanted = max(target + pool.preset.standby - left - starting - put_away, lacking, 0)
    assert len(plan.create) <= wanted
    assert len(plan.create) >= lacking or plan.held is not None
    if not any(p.failed_to_move for p in pool.prebuilds):
        assert len(plan.create) == wanted or plan.held is not None
    assert len(idle) - len(plan.resume) <= pool.preset.standby or set(plan.delete) & {p.id for p in idle}
    if plan.resume:
        assert len(good) + sum(p.in_progress is START and p.build_number > 1 for p in pool.prebuilds) < target
    if plan.pause:
        assert len(good) > target
        assert put_away <= pool.preset.standby
    if share is not None and plan.create:
        assert len(plan.create) + sum(p.creation_pending for p in pool.prebuilds) <= share


def carried_out(pool: PresetSnapshot, number: int, share: int | None) -> tuple[list[Prebuild], bool]:
    """Return the pool's rows after one pass and all its builds, and whether the plan had work."""
    plan = plan_preset(pool, number, share)
    gone = {*plan.delete, *plan.cancel}
    rows = [p for p in pool.prebuilds if p.id not in gone and p.transition is not DELETE]
    ended = [replace(p, status=CANCELED if p.status is CANCELING else SUCCEEDED) if p.in_progress else p for p in rows]
    ended = begin_moves(plan, ended)
    return ended + [Prebuild(i, NOW, 1, START, PENDING) for i in plan.create], not plan.empty


@given(pools(), st.none() | st.integers(1, 15))
@settings(deadline=None, max_examples=200)
def test_plans_carried_out_come_to_rest_at_the_count(pool: PresetSnapshot, share: int | None) -> None:
    pool = replace(pool, history=CreationHistory())  # a pool with held creations does not come to rest by itself
    for number in range(1, 40):  # with a share of one, a creation every other pass
        rows, worked = carried_out(pool, number, share)
        unfinished = any(p.in_progress for p in pool.prebuilds)
        pool = replace(pool, prebuilds=rows)
        if not (worked or unfinished):
            break
    else:
        pytest.fail("it does not come to rest")
    state = state_of(pool)
    assert state.actual == state.target
    unmoved = sum(p.failed_to_move for p in pool.prebuilds)
    paused, wanted = sum(p.paused for p in pool.prebuilds), pool.preset.standby if pool.preset.active else 0
    assert wanted - unmoved <= paused <= wanted
    assert state.extraneous == state.missing == state.expired == state.starting == state.deleting == 0
    for number in range(40, 43):
        plan = plan_preset(pool, number, share)
        assert plan.empty
        assert (plan.held, plan.more) == (None, False)
