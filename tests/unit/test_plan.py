"""The plan, rule by rule, each at its boundary."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest

from prebuilds.planning.plan import (
    CANCELS_PER_PASS_MAX,
    CREATES_PER_PASS_MAX,
    DELETES_PER_PASS_MAX,
    Reason,
    deletions,
    plan_preset,
    prebuild_id,
    prebuild_name,
)
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import Prebuild, PresetSnapshot, is_evidence_due, is_expired, is_unhealthy
from tests.unit.pools import (
    CANCELED,
    CANCELING,
    DELETE,
    EPOCH,
    FAILED,
    HOUR,
    NOW,
    PENDING,
    PRESET,
    RUNNING,
    SECOND,
    STOP,
    SUCCEEDED,
    TICK,
    creations,
    failed,
    history_of,
    ids,
    prebuild,
    prebuilds,
    snapshot,
)


@pytest.mark.parametrize(
    ("pool", "create", "delete"),
    [
        ([], 3, []),
        ([prebuild(1)], 2, []),
        ([prebuild(1), prebuild(2), prebuild(3)], 0, []),
        ([prebuild(1), prebuild(2, status=PENDING), prebuild(3, status=RUNNING)], 0, []),
        ([prebuild(n) for n in (5, 4, 3, 2, 1)], 0, [1, 2]),
        ([prebuild(n) for n in (1, 2, 3)] + [prebuild(4, status=PENDING)], 0, []),
        ([prebuild(n, status=PENDING) for n in (1, 2, 3, 4)], 0, []),  # too many, but none to be had yet
        ([prebuild(1), prebuild(2, DELETE, PENDING)], 2, []),
        ([prebuild(1), prebuild(2, DELETE, FAILED), prebuild(3, STOP, SUCCEEDED)], 2, []),
        ([prebuild(1, status=FAILED), prebuild(2, status=CANCELED)], 3, []),
        ([prebuild(1, status=CANCELING)], 2, []),
        ([prebuild(1, claimable=False)], 2, []),
    ],
)
def test_an_active_pool_is_brought_to_its_count(pool: list[Prebuild], create: int, delete: list[int]) -> None:
    plan = plan_preset(snapshot(*pool), 1)
    assert (len(plan.create), plan.delete, plan.cancel, plan.held) == (create, ids(*delete), [], None)


def test_prebuilds_of_equal_age_are_deleted_by_id() -> None:
    same = [prebuild(n, created_at=NOW) for n in (4, 2, 3, 1)]
    assert plan_preset(snapshot(*same, base_instances=2), 1).delete == ids(1, 2)


# --- Expiry ---


@pytest.mark.parametrize(
    ("age", "expire_after", "invalidated_ago", "expired"),
    [
        (HOUR - SECOND, HOUR, None, False),
        (HOUR - TICK, HOUR, None, False),
        (HOUR, HOUR, None, False),
        (HOUR + TICK, HOUR, None, True),
        (HOUR + SECOND, HOUR, None, True),
        (TICK, TICK, None, False),
        (2 * TICK, TICK, None, True),
        (timedelta(days=900), None, None, False),
        (timedelta(days=900), timedelta(0), None, False),
        (HOUR - TICK, None, HOUR, False),
        (HOUR, None, HOUR, False),
        (HOUR + TICK, None, HOUR, True),
        (HOUR + TICK, timedelta(0), HOUR, True),
        (HOUR, timedelta(days=1), HOUR - TICK, True),
        (HOUR, HOUR, HOUR, False),
        (timedelta(0), HOUR, timedelta(0), False),
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
    plan = plan_preset(snapshot(*pool, expire_after=50 * HOUR), 1)
    assert (plan.delete, plan.create) == (ids(1, 90), [])
    plan = plan_preset(snapshot(pool[0], pool[1], expire_after=50 * HOUR), 1)
    assert (plan.delete, len(plan.create)) == (ids(1), 2)


# --- Health ---


@pytest.mark.parametrize(("failures", "unhealthy"), [(0, False), (1, False), (2, True), (3, True)])
def test_two_failed_probes_in_a_row_replace_a_prebuild(failures: int, unhealthy: bool) -> None:
    pool = [*prebuilds(2), prebuild(99, probe_failures=failures)]
    assert is_unhealthy(pool[2]) is unhealthy
    plan = plan_preset(snapshot(*pool), 1)
    assert (plan.delete, len(plan.create)) == ((ids(99), 1) if unhealthy else ([], 0))


@pytest.mark.parametrize("status", [PENDING, RUNNING, CANCELING, FAILED, CANCELED])
def test_only_a_running_workspace_can_be_unhealthy(status: Any) -> None:
    assert not is_unhealthy(prebuild(1, status=status, probe_failures=9))
    assert not is_unhealthy(prebuild(1, STOP, SUCCEEDED, probe_failures=9))


# --- Evidence ---


@pytest.mark.parametrize(
    ("row", "due"),
    [
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR + SECOND), False),
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR + TICK), False),
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR), False),
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR - TICK), True),
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR - SECOND), True),
        (prebuild(1, status=FAILED, ended_at=NOW - HOUR - TICK, kept=True), False),
        (prebuild(1, status=FAILED, ended_at=None), False),
        (prebuild(1, status=CANCELED, ended_at=NOW - 2 * HOUR), True),
        (prebuild(1, STOP, SUCCEEDED, ended_at=NOW - 2 * HOUR), True),
        (prebuild(1, STOP, FAILED, ended_at=NOW - 2 * HOUR), True),
        (prebuild(1, STOP, CANCELED, ended_at=NOW - 2 * HOUR), True),
        (prebuild(1, STOP, RUNNING, ended_at=NOW - 2 * HOUR), False),
        (prebuild(1, status=PENDING, ended_at=NOW - 2 * HOUR), False),
        (prebuild(1, status=CANCELING, ended_at=NOW - 2 * HOUR), False),
        (prebuild(1, ended_at=NOW - 2 * HOUR), False),  # it runs
        (prebuild(1, DELETE, FAILED, ended_at=NOW - 2 * HOUR), False),  # to be deleted again, and not by the pool
        (prebuild(1, DELETE, CANCELED, ended_at=NOW - 2 * HOUR), False),
    ],
)
def test_evidence_stays_for_its_time(row: Prebuild, due: bool) -> None:
    assert is_evidence_due(row, NOW, Rules()) is due
    for active in (True, False):
        running = row.running and not active
        assert plan_preset(snapshot(row, active=active), 1).delete == (ids(1) if due or running else [])


def test_evidence_that_is_kept_for_no_time_stays_for_its_last_instant() -> None:
    rules = Rules(failed_retention=timedelta(0))
    assert not is_evidence_due(prebuild(1, status=FAILED, ended_at=NOW), NOW, rules)
    assert is_evidence_due(prebuild(1, status=FAILED, ended_at=NOW - TICK), NOW, rules)


def test_each_deletion_has_its_reason_and_its_place() -> None:
    old = [prebuild(1, status=FAILED, ended_at=NOW - 2 * HOUR), prebuild(2), prebuild(3, probe_failures=2)]
    pool = [*old, *(prebuild(n) for n in (60, 61, 62, 63)), prebuild(64, probe_failures=5)]
    found = deletions(snapshot(*reversed(pool), expire_after=97 * HOUR + TICK))
    assert list(found.items()) == [
        (UUID(int=2), Reason.EXPIRED),
        (UUID(int=3), Reason.UNHEALTHY),
        (UUID(int=64), Reason.UNHEALTHY),
        (UUID(int=60), Reason.EXTRANEOUS),
        (UUID(int=1), Reason.EVIDENCE),
    ]
    found = deletions(snapshot(*reversed(pool), expire_after=97 * HOUR + TICK, active=False))
    assert list(found) == ids(2, 3, 60, 61, 62, 63, 64, 1)
    assert {*list(found.values())[:-1]} == {Reason.INACTIVE}
    both = snapshot(prebuild(1, probe_failures=2), last_invalidated_at=NOW)
    assert deletions(both) == {UUID(int=1): Reason.EXPIRED}, "it is deleted, and counted, once"


# --- Inactive and paused ---


def test_an_inactive_pool_is_cancelled_and_deleted_expired_or_not() -> None:
    pool = [
        prebuild(1),
        prebuild(99),
        prebuild(2, status=PENDING),
        prebuild(3, status=RUNNING),
        prebuild(4, DELETE, PENDING),
        prebuild(5, status=FAILED),
        prebuild(6, status=PENDING, build_number=2),
        prebuild(7, status=CANCELING),
    ]
    plan = plan_preset(snapshot(*pool, active=False, expire_after=2 * HOUR), 1, 0)
    assert (plan.create, plan.delete, plan.cancel, plan.held) == ([], ids(1, 99), ids(2), None)


@pytest.mark.parametrize("changes", [{}, {"active": False}, {"last_invalidated_at": NOW}, {"base_instances": 0}])
def test_a_paused_pass_plans_nothing_and_says_why(changes: dict[str, Any]) -> None:
    plan = plan_preset(snapshot(prebuild(1), prebuild(2, status=PENDING), paused=True, **changes), 1)
    assert plan.empty
    assert (plan.held, plan.more) == ("paused", False)


# --- Bounds and ids ---

CREATES, DELETES, CANCELS = CREATES_PER_PASS_MAX, DELETES_PER_PASS_MAX, CANCELS_PER_PASS_MAX


@pytest.mark.parametrize(
    ("found", "pending_max", "sizes", "more"),
    [
        (snapshot(base_instances=CREATES), None, (CREATES, 0, 0), False),
        (snapshot(base_instances=CREATES + 1), None, (CREATES, 0, 0), True),
        (snapshot(base_instances=CREATES + 9), CREATES, (CREATES, 0, 0), False),  # the share is used up
        (snapshot(base_instances=CREATES + 9), CREATES + 1, (CREATES, 0, 0), True),
        (snapshot(base_instances=CREATES + 1, history=history_of(failed(SECOND))), None, (0, 0, 0), False),
        (snapshot(*prebuilds(DELETES), base_instances=0), None, (0, DELETES, 0), False),
        (snapshot(*prebuilds(DELETES + 1), base_instances=0), None, (0, DELETES, 0), True),
        (snapshot(*prebuilds(DELETES), active=False), None, (0, DELETES, 0), False),
        (snapshot(*prebuilds(DELETES + 1), active=False), None, (0, DELETES, 0), True),
        (snapshot(*creations(CANCELS), active=False), None, (0, 0, CANCELS), False),
        (snapshot(*creations(CANCELS + 1), active=False), None, (0, 0, CANCELS), True),
        (snapshot(*prebuilds(DELETES + 1), base_instances=0, paused=True), None, (0, 0, 0), False),
    ],
)
def test_a_pass_is_bounded_and_says_when_that_cut_it_short(
    found: PresetSnapshot, pending_max: int | None, sizes: tuple[int, int, int], more: bool
) -> None:
    plan = plan_preset(found, 1, pending_max)
    assert (len(plan.create), len(plan.delete), len(plan.cancel)) == sizes
    assert plan.more is more


def test_a_bound_on_deletions_leaves_the_youngest() -> None:
    pool = prebuilds(DELETES + 5)
    assert plan_preset(snapshot(*reversed(pool), base_instances=1), 1).delete == [p.id for p in pool[:DELETES]]
    pool = creations(CANCELS + 5)
    assert plan_preset(snapshot(*reversed(pool), active=False), 1).cancel == [p.id for p in pool[:CANCELS]]


def test_ids_repeat_with_the_pass_and_never_with_another() -> None:
    first, again, other = (plan_preset(snapshot(), n).create for n in (1, 1, 2))
    assert first == again
    assert not {*first} & {*other}
    assert first[0] == prebuild_id(EPOCH, PRESET.id, 1, 0) == uuid5(EPOCH, f"{PRESET.id}/1/0")
    later = plan_preset(replace(snapshot(), epoch=UUID(int=8)), 1).create
    assert not {*first} & {*later}, "neither another deployment nor a restored database repeats an id"
    assert len({prebuild_name(i) for i in (*first, *other)}) == 6
    assert plan_preset(snapshot(prebuild(1)), 1).create == first[:2], "a shorter plan of the pass has the same ids"
    assert not {*first} & {*plan_preset(snapshot(id=UUID(int=2)), 1).create}
