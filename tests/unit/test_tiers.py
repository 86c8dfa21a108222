"""The standby, rule by rule: resumes, pauses, creations and deletions, and no oscillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import Reason, deletions, plan_preset
from prebuilds.planning.snapshot import Prebuild, PresetSnapshot
from tests.unit.pools import (
    CANCELED,
    FAILED,
    HOUR,
    MINUTE,
    NOW,
    PAUSE,
    PENDING,
    RUNNING,
    START,
    SUCCEEDED,
    failed,
    history_of,
    ids,
    prebuild,
    snapshot,
    whole,
)


def idle(n: int, **changes: Any) -> Prebuild:
    return prebuild(n, PAUSE, build_number=2, **changes)


def failed_move(n: int, transition: Any, status: Any = FAILED, **changes: Any) -> Prebuild:
    return prebuild(n, transition, status, build_number=3, ended_at=NOW - MINUTE, **changes)


READY = [prebuild(n) for n in (11, 12, 13)]
IDLE = [idle(21), idle(22)]


@pytest.mark.parametrize(
    ("pool", "create", "resume", "pause", "delete"),
    [
        ([], 5, [], [], []),
        (READY, 2, [], [], []),
        ([*READY, *IDLE], 0, [], [], []),
        ([*READY, prebuild(14), prebuild(15)], 0, [], [15, 14], []),  # the newest are paused
        ([*READY, prebuild(14), prebuild(15), prebuild(16)], 0, [], [16, 15], [11]),  # the oldest go
        ([*READY, prebuild(14), *IDLE], 0, [], [], [11]),
        ([*READY, prebuild(14), idle(21), prebuild(22, PAUSE, RUNNING)], 0, [], [], [11]),
        ([*READY, idle(21), idle(22), idle(23), idle(24)], 0, [], [], [21, 22]),
        # One was claimed: the oldest paused one comes in its place, and a new one is made for the standby.
        ([*READY[1:], *IDLE], 1, [21], [], []),
        # Another one, while these are at work: the standby has one more, and need not wait for the creation.
        (
            [READY[2], prebuild(21, START, RUNNING, build_number=3), prebuild(31, START, PENDING), idle(22)],
            1,
            [22],
            [],
            [],
        ),
        (IDLE, 3, [21, 22], [], []),
        ([prebuild(n, START, RUNNING) for n in range(41, 46)], 0, [], [], []),
        ([*READY[:2], *(prebuild(n, START, RUNNING) for n in (41, 42, 43))], 0, [], [], []),
        # Expired ones and those that cannot move any more.
        ([*READY, idle(3), idle(22)], 1, [], [], [3]),
        ([*READY, idle(21), failed_move(22, PAUSE)], 0, [], [], []),
        ([*READY, idle(21), failed_move(22, PAUSE, kept=True)], 1, [], [], []),
        ([*READY, failed_move(22, START), failed_move(23, PAUSE, CANCELED), failed_move(24, START)], 0, [], [], []),
        ([*READY[1:], idle(21), idle(22), failed_move(23, START)], 1, [], [], []),
    ],
)
def test_ready_ones_come_from_the_standby_first(
    pool: list[Prebuild], create: int, resume: list[int], pause: list[int], delete: list[int]
) -> None:
    taken = snapshot(*pool, standby=2, expire_after=90 * HOUR)
    plan = plan_preset(taken, 5)
    assert (len(plan.create), plan.resume, plan.pause, plan.delete) == (create, ids(*resume), ids(*pause), ids(*delete))
    [decision] = plan_pass(whole(taken)).decisions
    assert (decision.creates, decision.deletes) == (create, bool(delete))
    assert decision.has_work is not plan.empty


def test_without_a_standby_the_paused_ones_are_used_up_and_the_others_deleted() -> None:
    plan = plan_preset(snapshot(*READY[:2], idle(21), idle(22)), 5)
    assert (plan.create, plan.resume, plan.delete) == ([], ids(21), ids(22))


def test_holds_on_creation_hold_no_resume() -> None:
    held = snapshot(*READY[:2], *IDLE, standby=2, history=history_of(failed(MINUTE), invalid_at=NOW - MINUTE))
    plan = plan_preset(held, 5)
    assert (plan.create, plan.resume, plan.held) == ([], ids(21), "validation_failed")
    paused = replace(held, paused=True)
    assert plan_preset(paused, 5).empty
    [decision] = plan_pass(replace(whole(held), paused=True)).decisions
    assert not decision.has_work


def test_an_inactive_pool_deletes_its_paused_ones() -> None:
    old = snapshot(*READY, *IDLE, active=False, standby=2)
    assert deletions(old) == dict.fromkeys(ids(11, 12, 13, 21, 22), Reason.INACTIVE)


def after_a_pass(pool: PresetSnapshot, number: int, moved: list[UUID]) -> PresetSnapshot:
    """Carry a pass out; resumes and pauses end before the next pass, creations after three."""
    plan = plan_preset(pool, number)
    rows = {p.id: p for p in pool.prebuilds if p.id not in plan.delete}
    assert len(rows) == len(pool.prebuilds), "nothing is deleted for size"
    for moves, transition in ((plan.resume, START), (plan.pause, PAUSE)):
        moved += moves
        for i in moves:
            rows[i] = replace(rows[i], transition=transition, build_number=rows[i].build_number + 1)
    for row in list(rows.values()):
        if row.creation_pending and number - row.probe_failures >= 3:
            rows[row.id] = replace(row, status=SUCCEEDED, probe_failures=0)
    for i in plan.create:
        rows[i] = Prebuild(i, NOW + number * MINUTE, 1, START, PENDING, probe_failures=number)
    return replace(pool, prebuilds=list(rows.values()), taken_at=NOW + number * MINUTE)


@pytest.mark.parametrize("claims_at", [(), (2,), (2, 3, 4), (2, 2, 2, 2)])
def test_each_one_moves_once_after_a_claim(claims_at: tuple[int, ...]) -> None:
    pool = snapshot(*READY, *IDLE, standby=2)
    moved: list[UUID] = []
    for number in range(1, 20):
        for _ in range(claims_at.count(number)):
            claimable = [p for p in pool.prebuilds if p.running] or [p for p in pool.prebuilds if p.paused]
            oldest = min(claimable, key=lambda p: (p.created_at, p.id))
            pool = replace(pool, prebuilds=[p for p in pool.prebuilds if p is not oldest])
        pool = after_a_pass(pool, number, moved)
    assert sum(p.running for p in pool.prebuilds) == 3
    assert sum(p.paused for p in pool.prebuilds) == 2
    assert max((moved.count(i) for i in moved), default=0) <= 1 or len(claims_at) > 3
    assert len(moved) <= 2 * len(claims_at)
