"""A rollout's steps: each rule at its boundary, its bounds for any sequence of events, and that it ends."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.api import InvalidInput
from prebuilds.planning.generations import find_generations, generations_of
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import Reason, deletions, plan_preset
from prebuilds.planning.pool_in_rollout import Generation, PoolInRollout
from prebuilds.planning.rollout_outcomes import canaries_of, judge_rollouts
from prebuilds.planning.rollout_steps import Step, plan_step
from prebuilds.planning.rollouts import Rollout, RolloutPolicy, RolloutState, Strategy, count_of
from prebuilds.planning.snapshot import (
    GenerationRows,
    GlobalSnapshot,
    Preset,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
)
from prebuilds.templates import parse_template_file
from tests.unit.pools import (
    NOW,
    PENDING,
    PRESET,
    ROWS,
    RULES,
    SECOND,
    creations,
    failed,
    histories,
    history_of,
    ids,
    prebuild,
    prebuilds,
    snapshot,
)

NEW, OLD, OLDER = UUID(int=30), UUID(int=20), UUID(int=10)


# --- Amounts ---


@pytest.mark.parametrize(
    ("amount", "whole", "up", "down"),
    [(3, 10, 3, 3), ("25%", 20, 5, 5), ("25%", 3, 1, 0), ("10%", 1, 1, 0), ("0%", 9, 0, 0), ("100%", 7, 7, 7)],
)
def test_percentages_are_rounded_as_kubernetes_does(amount: int | str, whole: int, up: int, down: int) -> None:
    assert (count_of(amount, whole, up=True), count_of(amount, whole, up=False)) == (up, down)


def test_max_unavailable_is_one_when_both_limits_round_to_zero() -> None:
    policy = RolloutPolicy(max_surge=0, max_unavailable="10%")
    assert [policy.unavailable(desired) for desired in (3, 10, 20)] == [1, 1, 2]
    assert RolloutPolicy().unavailable(0) == 1, "a pool of none is emptied"


@pytest.mark.parametrize(
    ("rollout", "wrong"),
    [
        ("{max_surge: 0, max_unavailable: 0}", "cannot both be 0"),
        ("{max_surge: 120%}", "percentage from 0% to 100%"),
        ("{max_unavailable: -1}", "number from 0"),
        ("{max_surge: true}", "number from 0"),
        ("{strategy: blue}", "surge"),
        ("{surge: 1}", "unknown key"),
    ],
)
def test_a_bad_policy_is_refused_by_its_field(rollout: str, wrong: str) -> None:
    text = f"""
organizations:
  - name: acme
    templates:
      - {{name: python, provisioner: process, source: {{command: [sleep, "1"]}}, rollout: {rollout}}}
"""
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(text)
    [(field, message)] = refused.value.details.items()
    assert "rollout" in field
    assert wrong in message


# --- Steps ---


def step(
    new: tuple[int, int, int],
    *old: tuple[int, int, int],
    desired: int = 20,
    policy: RolloutPolicy | None = None,
    held: bool = False,
    paused: bool = False,
    lately: int = 0,
    waiting: int = 0,
) -> Step:
    """Plan a step of generations with these counts of ready, begun and pending members, the newest old one first."""
    made = [
        Generation(preset, fresh=ready, ready=ready, starting=begun + pending, pending=pending)
        for preset, (ready, begun, pending) in zip((NEW, OLD, OLDER), (new, *old), strict=False)
    ]
    pool = PoolInRollout(
        desired=desired,
        target=desired + waiting,
        new=replace(made[0], held=held),
        old=made[1:],
        policy=policy or RolloutPolicy(),
        paused=paused,
        lately=lately,
    )
    return plan_step(pool)


@pytest.mark.parametrize(
    ("found", "create", "remove", "cancel"),
    [
        (step((0, 0, 0), (20, 0, 0)), (5, NEW), {}, {}),
        (step((0, 5, 0), (20, 0, 0)), (0, None), {}, {}),
        (step((5, 0, 0), (20, 0, 0)), (5, NEW), {OLD: 5}, {}),
        (step((4, 1, 0), (20, 0, 0)), (4, NEW), {OLD: 4}, {}),
        (step((20, 0, 0), (3, 0, 0)), (0, None), {OLD: 3}, {}),
        (step((20, 0, 0), (0, 2, 0)), (0, None), {}, {}),
        (step((19, 0, 0), (6, 0, 0)), (1, NEW), {OLD: 5}, {}),
        (step((0, 0, 0), (10, 0, 10)), (15, NEW), {}, {OLD: 10}),
        (step((0, 0, 0), (3, 0, 0), (17, 0, 0)), (5, NEW), {}, {}),
        (step((5, 0, 0), (3, 0, 0), (17, 0, 0)), (5, NEW), {OLDER: 5}, {}),
        (step((10, 0, 0), (3, 0, 0), (2, 0, 0)), (10, NEW), {}, {}),
        (step((25, 0, 0), (0, 0, 0)), (0, None), {NEW: 5}, {}),
        (step((0, 0, 0), (20, 0, 0), desired=0), (0, None), {OLD: 20}, {}),
        (step((3, 0, 0), (17, 0, 0), desired=5), (2, NEW), {OLD: 15}, {}),
        (step((0, 0, 0), (0, 0, 0), waiting=4), (24, NEW), {}, {}),
        (step((0, 0, 0), (1, 0, 0), desired=1), (1, NEW), {}, {}),
        (step((1, 0, 0), (1, 0, 0), desired=1), (0, None), {OLD: 1}, {}),
        # Without a surge, as many as may be unavailable are replaced at a time.
        (step((0, 0, 0), (20, 0, 0), policy=RolloutPolicy(max_surge=0, max_unavailable=2)), (2, NEW), {OLD: 2}, {}),
        (step((0, 2, 0), (18, 0, 0), policy=RolloutPolicy(max_surge=0, max_unavailable=2)), (0, None), {}, {}),
        # Ten were claimed within the last lead time, so that ten of the starting ones are theirs.
        (step((0, 15, 0), (10, 0, 0), lately=10), (0, None), {}, {}),
        (step((5, 10, 0), (10, 0, 0), lately=10), (5, NEW), {OLD: 5}, {}),
        (step((5, 3, 0), (10, 0, 0), lately=10), (12, NEW), {OLD: 5}, {}),
    ],
)
def test_new_prebuilds_are_created_before_old_ones_are_deleted(
    found: Step, create: tuple[int, UUID | None], remove: dict[UUID, int], cancel: dict[UUID, int]
) -> None:
    assert ((found.create, found.create_for), found.remove, found.cancel) == (create, remove, cancel)


@pytest.mark.parametrize("why", [{"held": True}, {"paused": True}])
@pytest.mark.parametrize(
    ("new", "old", "create", "remove", "cancel"),
    [
        ((0, 0, 0), (20, 0, 0), 0, {}, {}),
        ((0, 0, 0), (17, 0, 0), 3, {}, {}),
        ((5, 0, 0), (20, 0, 0), 0, {}, {}),
        ((5, 0, 0), (12, 1, 0), 2, {}, {}),
        ((5, 0, 0), (15, 0, 4), 0, {}, {OLD: 4}),
        ((9, 0, 0), (20, 0, 0), 0, {OLD: 4}, {}),
    ],
)
def test_an_old_pool_stays_while_the_new_one_cannot_grow(
    why: dict[str, bool],
    new: tuple[int, int, int],
    old: tuple[int, int, int],
    create: int,
    remove: dict[UUID, int],
    cancel: dict[UUID, int],
) -> None:
    found = step(new, old, **why)
    assert (found.create, found.create_for) == (create, OLD if create else None)
    assert (found.remove, found.cancel) == (remove, cancel)


# --- Rows and counts ---

OPEN = Rollout(UUID(int=99), RolloutPolicy(), RolloutState.RUNNING)
TEMPLATE = UUID(int=50)


def version(number: int, *, active: bool = False, rolled_from: bool = False, **changes: object) -> Preset:
    made = replace(PRESET, id=UUID(int=1_000_000 + number), version=number, active=active, template_id=TEMPLATE)
    return replace(made, rollout=OPEN, rolled_from=rolled_from, **changes)  # type: ignore[arg-type]


def generations(new: PresetSnapshot, *old: GenerationRows, lately: int = 0) -> PresetSnapshot:
    return replace(new, others=list(old), lately=lately)


def counted(pool: PresetSnapshot) -> GlobalSnapshot:
    every = [GenerationRows(pool.preset, pool.prebuilds, pool.history), *pool.others]
    return GlobalSnapshot(
        taken_at=pool.taken_at,
        paused=pool.paused,
        rules=pool.rules,
        presets=[
            PresetCounts(one.preset, count_prebuilds(one.preset, one.prebuilds, pool), one.history, pool.lately)
            for one in sorted(every, key=lambda one: one.preset.version)
        ],
    )


@st.composite
def rollouts(draw: st.DrawFn) -> PresetSnapshot:
    policy = RolloutPolicy(
        Strategy.SURGE, draw(st.sampled_from(["25%", 1, 3])), draw(st.sampled_from([0, 1, "30%"])), serve_old=True
    )
    rollout = replace(OPEN, policy=policy, state=draw(st.sampled_from([RolloutState.RUNNING, RolloutState.PAUSED])))
    rows = draw(st.lists(ROWS, min_size=2, max_size=3))
    presets = [
        replace(
            version(3 - n, active=n == 0, rolled_from=n == 1), rollout=rollout, base_instances=draw(st.integers(0, 12))
        )
        for n in range(len(rows))
    ]
    found = [[replace(row, id=UUID(int=row.id.int + 20_000 * n)) for row in some] for n, some in enumerate(rows)]
    history = draw(histories())
    new = replace(
        snapshot(*found[0], rules=draw(RULES), history=history), preset=presets[0], lately=draw(st.integers(0, 5))
    )
    return generations(
        new,
        *(GenerationRows(p, some, draw(histories())) for p, some in zip(presets[1:], found[1:], strict=True)),
        lately=new.lately,
    )


@given(rollouts(), st.none() | st.integers(0, 15))
@settings(deadline=None, max_examples=200)
def test_counts_and_rows_come_to_the_same_plan(pool: PresetSnapshot, share: int | None) -> None:
    pool = replace(pool, rules=replace(pool.rules, max_pending_builds=None))
    plan = plan_preset(pool, 5, share)
    by_counts = {one.item.preset.id: one for one in plan_pass(counted(pool)).decisions}
    new = by_counts[pool.preset.id]
    assert new.deletes == bool(plan.delete or plan.cancel)
    assert not any(one.has_work for one in by_counts.values() if one is not new), "the new one has all the work"
    if share is None:
        assert len(plan.create) == new.creates
    assert plan.delete == [i for i in deletions(pool) if i in plan.delete]
    for other in pool.others:
        same = replace(
            pool,
            preset=other.preset,
            prebuilds=other.prebuilds,
            history=other.history,
            others=[GenerationRows(pool.preset, pool.prebuilds, pool.history)]
            + [one for one in pool.others if one is not other],
        )
        planned = plan_preset(same, 5, share)
        assert (planned.create, set(planned.delete), set(planned.cancel)) == (
            plan.create,
            set(plan.delete),
            set(plan.cancel),
        )


@given(rollouts())
@settings(deadline=None, max_examples=200)
def test_no_step_breaks_the_bounds(pool: PresetSnapshot) -> None:
    found = generations_of(pool)
    assert found is not None
    counts = found.pool
    for as_it_stands in (False, True):
        taken = plan_step(counts, as_it_stands=as_it_stands)
        gone = 0 if as_it_stands else sum(taken.remove.values()) + sum(taken.cancel.values())
        assert taken.create == 0 or counts.total - gone + taken.create <= counts.limit
    every = (counts.new, *counts.old)
    ready_gone = sum(max(taken.remove.get(one.preset_id, 0) - (one.fresh - one.ready), 0) for one in counts.old)
    least = counts.desired - counts.policy.unavailable(counts.desired) - counts.lately
    assert ready_gone == 0 or counts.ready - ready_gone >= least - max(counts.new.fresh - counts.target, 0)
    assert all(taken.cancel.get(one.preset_id, 0) <= one.pending for one in every)


def test_each_deletion_of_a_rollout_has_its_reason() -> None:
    old = GenerationRows(
        version(1, rolled_from=True),
        [prebuild(1), prebuild(2, claimable=False), prebuild(3, probe_failures=2), *creations(1)],
        history_of(),
    )
    pool = generations(replace(snapshot(*prebuilds(4)[1:]), preset=version(2, active=True)), old)
    pool = replace(pool, prebuilds=[replace(p, id=UUID(int=p.id.int + 500)) for p in pool.prebuilds])
    assert deletions(pool) == dict(zip(ids(3, 2, 1), (Reason.UNHEALTHY, Reason.REPLACED, Reason.REPLACED), strict=True))
    assert plan_preset(pool, 1).cancel == ids(1001)


def test_creations_after_cancellations_come_at_once() -> None:
    older = GenerationRows(version(1, rolled_from=True, max_concurrent=2), creations(2), history_of())
    plan = plan_preset(generations(replace(snapshot(), preset=version(2, active=True, max_concurrent=2)), older), 1)
    assert (len(plan.cancel), plan.create, plan.more) == (2, [], True)


def test_creations_go_to_the_old_version_while_the_new_one_is_held() -> None:
    new = replace(snapshot(history=history_of(*[failed(SECOND)] * 3)), preset=version(2, active=True))
    older = GenerationRows(version(1, rolled_from=True), [prebuild(1)], history_of())
    plan = plan_preset(generations(new, older), 1)
    assert (len(plan.create), plan.create_for, plan.held) == (2, older.preset.id, "hard_limited")
    bad = replace(older, history=history_of(*[failed(SECOND)] * 3))
    assert plan_preset(generations(new, bad), 1).create == []


def test_without_an_open_rollout_an_older_version_is_planned_alone() -> None:
    for rollout in (None, replace(OPEN, policy=RolloutPolicy(Strategy.RECREATE))):
        presets = [replace(version(1), rollout=rollout), replace(version(2, active=True), rollout=rollout)]
        counts = [PresetCounts(p, count_prebuilds(p, [prebuild(1)], snapshot()), history_of()) for p in presets]
        assert find_generations(counts, snapshot(), {}) == {}
    retired = [version(1), version(2)]
    counts = [PresetCounts(p, count_prebuilds(p, [prebuild(1)], snapshot()), history_of()) for p in retired]
    assert find_generations(counts, snapshot(), {}) == {}, "nothing of a retired template stays"


# --- Outcomes ---


def outcome(
    new: PresetSnapshot, *old: GenerationRows, state: RolloutState = RolloutState.RUNNING
) -> tuple[str, str | None]:
    rollout = replace(OPEN, state=state, progress=-1)
    pool = generations(
        replace(new, preset=replace(version(2, active=True), rollout=rollout)),
        *(replace(one, preset=replace(one.preset, rollout=rollout)) for one in old),
    )
    [found] = judge_rollouts(plan_pass(counted(pool)))
    return found.state, found.reason


def test_a_rollout_ends_truthfully() -> None:
    gone = GenerationRows(version(1, rolled_from=True), [], history_of())
    left = replace(gone, prebuilds=[replace(prebuild(1), id=UUID(int=900))])
    begun = replace(gone, prebuilds=[replace(prebuild(1, status=PENDING), id=UUID(int=900))])
    impossible = history_of(failed(SECOND), invalid_at=NOW)
    assert outcome(snapshot(*prebuilds(3)), gone) == ("succeeded", None)
    assert outcome(snapshot(*prebuilds(3)), left) == ("running", None)
    assert outcome(snapshot(*prebuilds(3)), begun) == ("running", None)
    assert outcome(snapshot(*prebuilds(2)), gone) == ("running", None)
    assert outcome(snapshot(history=history_of(failed(SECOND))), left) == ("running", None), "it backs off"
    assert outcome(snapshot(history=impossible), left) == ("failed", "small: validation_failed")
    assert outcome(snapshot(*prebuilds(3)), gone, state=RolloutState.FAILED) == ("succeeded", None)
    assert outcome(snapshot(*prebuilds(3)), gone, state=RolloutState.PAUSED) == ("paused", None)


@pytest.mark.parametrize(("instances", "ends"), [(None, True), (3, False)])
def test_a_rollout_ends_when_the_new_version_has_no_pool_any_more(instances: int | None, ends: bool) -> None:
    """Unlike one of a template that is deprecated, whose version still has its pools."""
    new = replace(snapshot(), preset=version(2, base_instances=instances))
    found = judge_rollouts(
        plan_pass(counted(generations(new, GenerationRows(version(1, rolled_from=True), [], history_of()))))
    )
    assert [one.state for one in found] == ([RolloutState.SUCCEEDED] if ends else [])


def test_a_hold_of_a_pool_that_the_canarys_version_has_kept_says_nothing_about_it() -> None:
    trying = replace(OPEN, canary=True)
    impossible = history_of(failed(SECOND), invalid_at=NOW)
    kept = replace(version(2, active=True), name="kept", id=UUID(int=500), rollout=trying, rolled_from=True)
    alone = replace(snapshot(history=impossible), preset=kept)
    [found] = canaries_of(plan_pass(counted(alone)))
    assert found.held == {}
    new = replace(snapshot(history=impossible), preset=replace(version(2, active=True), rollout=trying))
    old = GenerationRows(replace(version(1, rolled_from=True), rollout=trying), prebuilds(1), history_of())
    [found] = canaries_of(plan_pass(counted(generations(new, old))))
    assert list(found.held.values()) == ["small: validation_failed"]
