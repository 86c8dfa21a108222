"""The plan, rule by rule, each at its boundary; and what no plan may ever do."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.payloads import NAMESPACE, BuildStatus, Transition
from prebuilds.planning.plan import (
    CREATES_PER_PASS_MAX,
    DELETES_PER_PASS_MAX,
    has_work,
    plan_preset,
    pool_state,
    prebuild_id,
    prebuild_name,
    presets_with_work,
)
from prebuilds.planning.snapshot import (
    GlobalSnapshot,
    Prebuild,
    Preset,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
    is_expired,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
PRESET = Preset(
    id=UUID(int=1), organization="acme", template="python", version=1, name="small", active=True, base_instances=3
)
START, STOP, DELETE = Transition.START, Transition.STOP, Transition.DELETE
PENDING, RUNNING, SUCCEEDED = BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.SUCCEEDED
FAILED, CANCELED = BuildStatus.FAILED, BuildStatus.CANCELED


def prebuild(n: int, transition: Transition = START, status: BuildStatus = SUCCEEDED, **changes: object) -> Prebuild:
    """The *n*th: the higher, the younger."""
    ready = transition is START and status is SUCCEEDED
    made = Prebuild(UUID(int=n), NOW - timedelta(hours=100 - n), 1, transition, status, claimable=ready)
    return replace(made, **changes)


def snapshot(*prebuilds: Prebuild, paused: bool = False, **changes: object) -> PresetSnapshot:
    return PresetSnapshot(NOW, paused, replace(PRESET, **changes), list(prebuilds))


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=n) for n in numbers]


@pytest.mark.parametrize(
    ("pool", "create", "delete"),
    [
        ([], 3, []),
        ([prebuild(1)], 2, []),
        ([prebuild(1), prebuild(2), prebuild(3)], 0, []),
        ([prebuild(1), prebuild(2, status=PENDING), prebuild(3, status=RUNNING)], 0, []),
        ([prebuild(n) for n in (5, 4, 3, 2, 1)], 0, [1, 2]),
        ([prebuild(n) for n in (1, 2, 3)] + [prebuild(4, status=PENDING)], 0, []),
        ([prebuild(1), prebuild(2, DELETE, PENDING)], 2, []),
        ([prebuild(1), prebuild(2, DELETE, FAILED), prebuild(3, STOP, SUCCEEDED)], 2, []),
        ([prebuild(1, status=FAILED), prebuild(2, status=CANCELED)], 3, []),
        ([prebuild(1, status=BuildStatus.CANCELING)], 2, []),
    ],
)
def test_an_active_pool_is_brought_to_its_count(pool: list[Prebuild], create: int, delete: list[int]) -> None:
    plan = plan_preset(snapshot(*pool), 1)
    assert (len(plan.create), plan.delete, plan.cancel, plan.held) == (create, ids(*delete), [], None)


def test_of_the_same_age_the_lower_id_goes_first() -> None:
    same = [prebuild(n, created_at=NOW) for n in (4, 2, 3, 1)]
    assert plan_preset(snapshot(*same), 1).delete == ids(1)


@pytest.mark.parametrize(
    ("age", "expire_after", "invalidated_ago", "expired"),
    [
        (timedelta(hours=1), timedelta(hours=1), None, False),
        (timedelta(hours=1) + TICK, timedelta(hours=1), None, True),
        (timedelta(days=900), None, None, False),
        (timedelta(days=900), timedelta(0), None, False),
        (timedelta(hours=1), None, timedelta(hours=1), False),
        (timedelta(hours=1) + TICK, None, timedelta(hours=1), True),
        (timedelta(hours=1), timedelta(days=1), timedelta(minutes=59), True),
    ],
)
def test_both_expiry_limits_are_strict(
    age: timedelta, expire_after: timedelta | None, invalidated_ago: timedelta | None, expired: bool
) -> None:
    invalidated = None if invalidated_ago is None else NOW - invalidated_ago
    preset = replace(PRESET, expire_after=expire_after, last_invalidated_at=invalidated)
    assert is_expired(preset, NOW - age, NOW) is expired


def test_expired_ones_are_deleted_before_surplus_and_replaced() -> None:
    pool = [prebuild(n) for n in (1, 90, 91, 92, 93)]  # the first is 99 hours old
    plan = plan_preset(snapshot(*pool, expire_after=timedelta(hours=50)), 1)
    assert (plan.delete, plan.create) == (ids(1, 90), [])
    plan = plan_preset(snapshot(pool[0], pool[1], expire_after=timedelta(hours=50)), 1)
    assert (plan.delete, len(plan.create)) == (ids(1), 2)


def test_an_inactive_pool_is_cancelled_and_deleted_expired_or_not() -> None:
    pool = [
        prebuild(1),
        prebuild(99),
        prebuild(2, status=PENDING),
        prebuild(3, status=RUNNING),
        prebuild(4, DELETE, PENDING),
        prebuild(5, status=FAILED),
        prebuild(6, status=PENDING, build_number=2),
    ]
    plan = plan_preset(snapshot(*pool, active=False, expire_after=timedelta(hours=2)), 1)
    assert (plan.create, plan.delete, plan.cancel) == ([], ids(1, 99), ids(2))


def test_while_paused_a_pass_plans_nothing_and_says_why() -> None:
    plan = plan_preset(snapshot(prebuild(1), paused=True, active=False), 1)
    assert plan.empty
    assert plan.held == "paused"


def test_a_pass_is_bounded() -> None:
    assert len(plan_preset(snapshot(base_instances=1000), 1).create) == CREATES_PER_PASS_MAX
    many = [prebuild(n) for n in range(1, 300)]
    assert len(plan_preset(snapshot(*many, base_instances=0), 1).delete) == DELETES_PER_PASS_MAX


def test_ids_repeat_with_the_pass_and_never_with_another() -> None:
    first, again, other = (plan_preset(snapshot(), n).create for n in (1, 1, 2))
    assert first == again
    assert not {*first} & {*other}
    assert first[0] == prebuild_id(PRESET.id, 1, 0) == uuid5(NAMESPACE, f"{PRESET.id}/1/0")
    assert len({prebuild_name(i) for i in (*first, *other)}) == 6


def test_presets_with_work_delete_before_they_create() -> None:
    def counted(n: int, active: bool, *pool: Prebuild) -> PresetCounts:
        preset = replace(PRESET, id=UUID(int=n), active=active)
        return PresetCounts(preset, count_prebuilds(preset, pool, NOW))

    whole = [prebuild(n) for n in (1, 2, 3)]
    found = [
        counted(1, True),
        counted(2, True, *whole),
        counted(3, False, *whole),
        counted(4, True, *whole, prebuild(4)),
    ]
    assert presets_with_work(GlobalSnapshot(NOW, False, found)) == ids(3, 4, 1)
    assert presets_with_work(GlobalSnapshot(NOW, True, found)) == []


# --- Properties ---

PREBUILDS = st.lists(
    st.builds(
        lambda n, age, transition, status, number, claimable: Prebuild(
            UUID(int=n), NOW - timedelta(hours=age), number, transition, status, claimable
        ),
        n=st.integers(1, 10_000),
        age=st.integers(0, 60),
        transition=st.sampled_from(Transition),
        status=st.sampled_from(BuildStatus),
        number=st.integers(1, 3),
        claimable=st.booleans(),
    ),
    max_size=30,
    unique_by=lambda p: p.id,
)
PRESETS = st.builds(
    lambda active, desired, expire, invalidated: replace(
        PRESET,
        active=active,
        base_instances=desired,
        expire_after=None if expire is None else timedelta(hours=expire),
        last_invalidated_at=None if invalidated is None else NOW - timedelta(hours=invalidated),
    ),
    active=st.booleans(),
    desired=st.integers(0, 12),
    expire=st.none() | st.integers(0, 50),
    invalidated=st.none() | st.integers(0, 60),
)


@given(PRESETS, PREBUILDS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_plan_touches_only_what_it_may(preset: Preset, pool: list[Prebuild], shuffle: random.Random) -> None:
    plan = plan_preset(PresetSnapshot(NOW, False, preset, pool), 5)
    by_id = {p.id: p for p in pool}
    assert all(by_id[i].running for i in plan.delete)
    assert all(by_id[i].creation_pending for i in plan.cancel)
    assert len({*plan.create, *plan.delete, *plan.cancel}) == len(plan.create) + len(plan.delete) + len(plan.cancel)
    fresh = [p for p in pool if p.running and not is_expired(preset, p.created_at, NOW)]
    if preset.active:
        assert not plan.cancel
        kept = len([p for p in fresh if p.id not in plan.delete])
        assert kept >= min(len(fresh), preset.base_instances or 0), "never a good one at or below the count"
        starting = sum(p.in_progress is START for p in pool)
        assert len(plan.create) + kept + starting <= max(preset.base_instances or 0, kept + starting)
    else:
        assert not plan.create
    mixed = list(pool)
    shuffle.shuffle(mixed)
    assert plan_preset(PresetSnapshot(NOW, False, preset, mixed), 5) == plan, "the rows' order does not matter"
    counts = count_prebuilds(preset, pool, NOW)
    assert has_work(preset, counts, NOW) is not plan.empty, "skipped means nothing to do"


@given(PRESETS, PREBUILDS)
@settings(deadline=None)
def test_plans_carried_out_come_to_rest_at_the_count(preset: Preset, pool: list[Prebuild]) -> None:
    for number in range(1, 10):
        plan = plan_preset(PresetSnapshot(NOW, False, preset, pool), number)
        if plan.empty:
            break
        gone = {*plan.delete, *plan.cancel}
        pool = [p for p in pool if p.id not in gone]
        pool += [Prebuild(i, NOW, 1, START, SUCCEEDED, claimable=True) for i in plan.create]
    else:
        pytest.fail("it does not come to rest")
    state = pool_state(preset, count_prebuilds(preset, pool, NOW), NOW)
    assert state.extraneous == state.missing == state.expired == 0 or not preset.active
    if not preset.active:
        assert not any(p.running or p.creation_pending for p in pool)
