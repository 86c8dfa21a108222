"""The plan, rule by rule, each at its boundary; and what no plan may ever do."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.plan import (
    CANCELS_PER_PASS_MAX,
    CREATES_PER_PASS_MAX,
    DELETES_PER_PASS_MAX,
    Reason,
    deletions,
    plan_preset,
    prebuild_id,
    prebuild_name,
    state_of,
)
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import (
    CreationHistory,
    Prebuild,
    PresetSnapshot,
    is_evidence_due,
    is_expired,
    is_unhealthy,
)
from prebuilds.planning.state import Desired, desired_at
from prebuilds.vocabulary import NAMESPACE
from tests.unit.pools import (
    CANCELED,
    CANCELING,
    DELETE,
    FAILED,
    HOUR,
    NOW,
    PENDING,
    PRESET,
    RUNNING,
    SECOND,
    START,
    STOP,
    SUCCEEDED,
    TICK,
    UNREADABLE,
    by_id,
    creations,
    failed,
    history_of,
    ids,
    pools,
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


def test_of_the_same_age_the_lower_id_goes_first() -> None:
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
def test_only_what_runs_can_be_unhealthy(status: Any) -> None:
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
def test_while_paused_a_pass_plans_nothing_and_says_why(changes: dict[str, Any]) -> None:
    plan = plan_preset(snapshot(prebuild(1), prebuild(2, status=PENDING), paused=True, **changes), 1)
    assert plan.empty
    assert (plan.held, plan.more) == ("paused", False)


# --- Desired ---

OFFICE: dict[str, Any] = {"timezone": "Europe/Berlin", "windows": (("* 8-18 * * 1-5", 10), ("* 19 * * 1-5", 0))}
IN_BERLIN = datetime.fromisoformat("2026-03-02T00:00:00+01:00")
"""A Monday's midnight."""


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (IN_BERLIN + 8 * HOUR - TICK, Desired(3)),
        (IN_BERLIN + 8 * HOUR, Desired(10, "* 8-18 * * 1-5")),
        (IN_BERLIN + 19 * HOUR - TICK, Desired(10, "* 8-18 * * 1-5")),
        (IN_BERLIN + 19 * HOUR, Desired(0, "* 19 * * 1-5")),  # a window of none is a window
        (IN_BERLIN + 20 * HOUR - TICK, Desired(0, "* 19 * * 1-5")),
        (IN_BERLIN + 20 * HOUR, Desired(3)),
        (IN_BERLIN - 12 * HOUR, Desired(3)),  # on Sunday
    ],
)
def test_a_window_decides_within_its_hours_and_the_base_outside(at: datetime, expected: Desired) -> None:
    preset = replace(PRESET, **OFFICE)
    assert desired_at(preset, at) == expected
    state = state_of(replace(snapshot(), taken_at=at, preset=preset))
    assert (state.desired, state.target, state.missing) == (expected.instances,) * 3
    assert (state.window, state.unreadable_schedule) == (expected.window, None)
    state = state_of(replace(snapshot(), taken_at=at, preset=replace(preset, active=False)))
    assert (state.desired, state.target, state.missing, state.window) == (0, 0, 0, None)


@pytest.mark.parametrize(("base", "expected"), [(None, 0), (0, 0), (1, 1)])
def test_without_a_schedule_the_base_is_desired(base: int | None, expected: int) -> None:
    assert desired_at(replace(PRESET, base_instances=base), NOW) == Desired(expected)


@pytest.mark.parametrize(
    ("timezone", "windows", "why"),
    [
        ("Mars/Olympus", [("* 12 * * *", 9)], "timezone Mars/Olympus"),
        (None, [("* 12 * * *", 9)], "timezone is required"),
        ("UTC", [("* 12 * * *", 9), ("whenever", 1)], "schedule[1].cron whenever"),
        ("UTC", [("0 12 * * *", 9)], "minute must be *"),
        ("UTC", [("* 12 * * *", 9), ("* 13 * * *", -1)], "schedule[1].instances is -1"),
        ("UTC", [("* 12 * * *", 9), ("* 1-23 * * *", 1)], "overlaps schedule[0]"),
    ],
)
def test_an_unreadable_schedule_counts_for_nothing(
    timezone: str | None, windows: list[tuple[str, int]], why: str
) -> None:
    """Also where its readable window would decide: what is half understood is not followed."""
    state = state_of(snapshot(timezone=timezone, windows=tuple(windows)))
    assert (state.desired, state.window) == (3, None)
    assert why in (state.unreadable_schedule or "")


@given(st.text(max_size=20) | st.sampled_from(["", ".", "..", "/", "Europe", "posixrules"]), st.text(max_size=20))
@settings(deadline=None)
def test_no_stored_schedule_stops_a_pass(timezone: str, cron: str) -> None:
    for windows in (((cron, 5),), (("* 12 * * *", 5), (cron, 5))):
        assert desired_at(replace(PRESET, timezone=timezone, windows=windows), NOW).instances in (3, 5)


def test_an_inactive_preset_has_no_schedule_to_complain_of() -> None:
    assert state_of(snapshot(**UNREADABLE)).unreadable_schedule is not None
    assert state_of(snapshot(active=False, **UNREADABLE)).unreadable_schedule is None


def test_the_figures_of_a_pool() -> None:
    pool = [
        prebuild(1),
        prebuild(95),
        prebuild(96, claimable=False),
        prebuild(97, probe_failures=2, claimable=False),
        prebuild(2, status=PENDING),
        prebuild(3, status=CANCELING),
        prebuild(4, STOP, RUNNING),
        prebuild(5, DELETE, PENDING),
        prebuild(6, DELETE, FAILED),
    ]

    def check(preset: dict[str, Any], **figures: int) -> None:
        state = asdict(state_of(snapshot(*pool, expire_after=50 * HOUR, **preset)))
        told = {"actual": 4, "expired": 1, "starting": 2, "stopping": 1, "deleting": 1} | figures
        assert {name: state[name] for name in told} == told

    check({"base_instances": 6}, desired=6, target=6, eligible=1, extraneous=0, missing=2)
    check({"base_instances": 4}, desired=4, target=4, eligible=1, extraneous=0, missing=0)
    check({"base_instances": 1}, desired=1, target=1, eligible=1, extraneous=1, missing=0)
    check({"active": False}, desired=0, target=0, eligible=0, extraneous=0, missing=0)


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


def test_what_a_bound_leaves_is_the_youngest() -> None:
    pool = prebuilds(DELETES + 5)
    assert plan_preset(snapshot(*reversed(pool), base_instances=1), 1).delete == [p.id for p in pool[:DELETES]]
    pool = creations(CANCELS + 5)
    assert plan_preset(snapshot(*reversed(pool), active=False), 1).cancel == [p.id for p in pool[:CANCELS]]


def test_ids_repeat_with_the_pass_and_never_with_another() -> None:
    first, again, other = (plan_preset(snapshot(), n).create for n in (1, 1, 2))
    assert first == again
    assert not {*first} & {*other}
    assert first[0] == prebuild_id(PRESET.id, 1, 0) == uuid5(NAMESPACE, f"{PRESET.id}/1/0")
    assert len({prebuild_name(i) for i in (*first, *other)}) == 6
    assert plan_preset(snapshot(prebuild(1)), 1).create == first[:2], "a shorter plan of the pass has the same ids"
    assert not {*first} & {*plan_preset(snapshot(id=UUID(int=2)), 1).create}


# --- Properties ---

SHARES = st.none() | st.integers(-1, 15)


@given(pools(), SHARES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_a_plan_touches_only_what_it_may(pool: PresetSnapshot, share: int | None, shuffle: random.Random) -> None:
    plan, rows = plan_preset(pool, 5, share), by_id(pool.prebuilds)
    assert all(rows[i].running or (rows[i].evidence and not rows[i].kept) for i in plan.delete)
    assert all(rows[i].creation_pending for i in plan.cancel)
    assert len({*plan.create, *plan.delete, *plan.cancel}) == len(plan.create) + len(plan.delete) + len(plan.cancel)
    assert not plan.cancel if pool.preset.active else not plan.create
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
    left = len([p for p in good if p.id not in plan.delete])
    assert left == min(len(good), target), "a good one goes only beyond the target, and then it does"
    starting = sum(p.in_progress is START for p in pool.prebuilds)
    assert len(plan.create) <= max(target - left - starting, 0)
    assert len(plan.create) == max(target - left - starting, 0) or plan.held is not None
    if share is not None and plan.create:
        assert len(plan.create) + sum(p.creation_pending for p in pool.prebuilds) <= share


def carried_out(pool: PresetSnapshot, number: int, share: int | None) -> tuple[list[Prebuild], bool]:
    """The pool's rows after one pass and the end of every build; whether there was anything to do."""
    plan = plan_preset(pool, number, share)
    gone = {*plan.delete, *plan.cancel}
    rows = [p for p in pool.prebuilds if p.id not in gone and p.transition is not DELETE]
    ended = [replace(p, status=CANCELED if p.status is CANCELING else SUCCEEDED) if p.in_progress else p for p in rows]
    return ended + [Prebuild(i, NOW, 1, START, PENDING) for i in plan.create], not plan.empty


@given(pools(), st.none() | st.integers(1, 15))
@settings(deadline=None, max_examples=200)
def test_plans_carried_out_come_to_rest_at_the_count(pool: PresetSnapshot, share: int | None) -> None:
    pool = replace(pool, history=CreationHistory())  # what holds creation comes to no rest by itself
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
    assert state.extraneous == state.missing == state.expired == state.starting == state.deleting == 0
    for number in range(40, 43):
        plan = plan_preset(pool, number, share)
        assert plan.empty
        assert (plan.held, plan.more) == (None, False)
