"""The loop over hours of skipped time: passes, children, continue-as-new, failures."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from activities.reconcile import Work
from prebuilds.planning.plan import ReconcilePlan
from tests.workflow.fakes import FakePool, start_loop, until
from workflows.preset_children import WANTED_MAX

PRESET = UUID(int=1)


async def _passes(loop: WorkflowHandle[Any, Any], number: int) -> None:
    """Wait until the loop has recorded this many passes."""
    async with asyncio.timeout(20):
        while (await loop.query("status"))["passes"] < number:
            await asyncio.sleep(0.01)


async def test_runs_a_pass_at_once_and_then_on_the_interval(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=60)
        await until(lambda: pool.passes == 1, "the first pass")
        await skipping.sleep(timedelta(minutes=10, seconds=1))
        assert pool.passes == 11
        await loop.signal("stop", "done")
        result = await loop.result()
    assert result["passes"] == 11
    assert pool.ended == [], "an idle pass is one activity"


async def test_continues_as_new_over_hours_and_loses_nothing(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=5)
        first_run = (await loop.describe()).run_id
        await skipping.sleep(timedelta(minutes=45))
        described = await loop.describe()
        assert described.run_id != first_run, "540 passes are more than one run's history"
        passes = pool.passes
        await loop.signal("stop", "done")
        result = await loop.result()
    assert 538 <= passes <= 542
    assert result["passes"] == passes
    assert result["started_at"] < result["stopped_at"]


async def test_reconciles_what_a_pass_finds_each_by_its_own_child(skipping: WorkflowEnvironment) -> None:
    presets = [uuid4() for _ in range(30)]
    pool = FakePool(work=lambda n: presets if n == 1 else [])
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600, max_parallel_presets=4)
        await until(lambda: pool.ended == [1], "the pass to end")
        await loop.signal("stop")
        await loop.result()
    assert sorted(pool.planned) == sorted(presets)
    assert {c.preset_id for _, c in pool.written} == set(presets)


async def test_carries_out_deletions_before_creations(skipping: WorkflowEnvironment) -> None:
    plan = ReconcilePlan(7, PRESET, create=[uuid4()], delete=[uuid4()], cancel=[uuid4()])
    pool = FakePool(work=lambda n: [PRESET] if n == 1 else [], plan=lambda _: plan)
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: len(pool.written) == 3, "the plan to be carried out")
        await loop.signal("stop")
        await loop.result()
    assert [kind for kind, _ in pool.written] == ["delete", "cancel", "create"]
    assert all(written.pass_number == 7 for _, written in pool.written)


async def test_each_activity_may_fail_once(skipping: WorkflowEnvironment) -> None:
    names = ["find_work", "end_pass", "plan_reconcile", "create", "delete", "cancel", "record_stop"]
    plan = ReconcilePlan(1, PRESET, create=[uuid4()], delete=[uuid4()], cancel=[uuid4()])
    pool = FakePool(work=lambda n: [PRESET] if n == 1 else [], plan=lambda _: plan, failures=dict.fromkeys(names, 1))
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.ended == [1], "the pass to end")
        await loop.signal("stop", "done")
        await loop.result()
    assert {kind for kind, _ in pool.written} == {"create", "delete", "cancel"}
    assert pool.stops == ["done"]


async def test_a_pass_that_cannot_run_is_followed_by_the_next(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(failures={"find_work": 1000})
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=15)
        await skipping.sleep(timedelta(minutes=11))
        pool.failures.clear()
        await skipping.sleep(timedelta(minutes=1))
        assert pool.passes >= 1
        await loop.signal("stop")
        await loop.result()


async def test_a_poisoned_preset_stops_nobody(skipping: WorkflowEnvironment) -> None:
    good, bad = uuid4(), uuid4()

    def plan(preset: UUID) -> ReconcilePlan:
        if preset == bad:
            raise RuntimeError("a planner's bug")
        return ReconcilePlan(1, preset, create=[uuid4()])

    pool = FakePool(work=lambda n: [bad, good], plan=plan)
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=60)
        await until(lambda: any(w.preset_id == good for _, w in pool.written), "the good preset")
        await skipping.sleep(timedelta(minutes=5))
        assert pool.passes >= 4
        await loop.signal("stop", "done")
        assert (await loop.result())["cause"] == "done"


async def test_a_nudge_for_one_preset_runs_it_alone_without_a_pass(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.passes == 1, "the first pass")
        await loop.signal("nudge", [str(PRESET)])
        await until(lambda: pool.planned == [PRESET], "the nudged preset")
        assert pool.passes == 1
        await loop.signal("nudge")
        await until(lambda: pool.passes == 2, "the pass that a nudge without names asks for")
        await loop.signal("stop")
        await loop.result()


async def test_a_paused_loop_leaves_nudged_presets_alone_until_a_pass_finds_otherwise(
    skipping: WorkflowEnvironment,
) -> None:
    pool = FakePool(work=lambda n: Work(n, [], paused=n == 1))
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await _passes(loop, 1)
        await loop.signal("nudge", [str(uuid4())])
        await loop.signal("nudge")  # as a resume does
        await _passes(loop, 2)
        await loop.signal("nudge", [str(PRESET)])
        await until(lambda: pool.planned != [], "the nudged preset")
        await loop.signal("stop")
        await loop.result()
    assert pool.planned == [PRESET]


async def test_a_nudge_that_meets_a_running_child_is_kept(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(hold=asyncio.Event())
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client, interval_seconds=3600)
            await loop.signal("nudge", [str(PRESET)])
            await pool.planning.wait()
            for _ in range(5):
                await loop.signal("nudge", [str(PRESET)])
            status = await loop.query("status")
            assert (status["reconciling"], status["waiting"]) == ([str(PRESET)], [str(PRESET)])
            assert pool.hold is not None
            pool.hold.set()
            await until(lambda: len(pool.planned) == 2, "the kept nudge")
            await loop.signal("stop")
            await loop.result()
    assert len(pool.planned) == 2, "five nudges in the air are one more turn"


async def test_a_nudge_in_mid_pass_earns_another_pass(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(work=lambda n: [PRESET] if n == 1 else [], hold=asyncio.Event())
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client, interval_seconds=3600)
            await pool.planning.wait()
            await loop.signal("nudge")
            assert pool.hold is not None
            pool.hold.set()
            await until(lambda: pool.passes == 2, "a pass after the one that was nudged")
            await loop.signal("stop")
            await loop.result()


async def test_a_plan_cut_short_is_followed_by_the_next_at_once(skipping: WorkflowEnvironment) -> None:
    plans = iter([True, True, False])
    pool = FakePool(
        work=lambda n: [PRESET] if n == 1 else [],
        plan=lambda preset: ReconcilePlan(1, preset, create=[uuid4()], more=next(plans)),
    )
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.ended == [1], "the pass to end")
        await loop.signal("stop")
        await loop.result()
    assert (len(pool.planned), pool.passes) == (3, 1)


async def test_a_plan_that_changes_nothing_is_not_repeated(skipping: WorkflowEnvironment) -> None:
    plan = ReconcilePlan(1, PRESET, more=True)
    pool = FakePool(work=lambda n: [PRESET] if n == 1 else [], plan=lambda _: plan)
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.ended == [1], "the pass to end")
        await loop.signal("stop")
        await loop.result()
    assert len(pool.planned) == 1


async def test_each_preset_gets_its_share_also_when_it_is_nudged(skipping: WorkflowEnvironment) -> None:
    favored = UUID(int=2)
    work = Work(1, [PRESET, favored], pending_max=4, favored=[favored])
    pool = FakePool(work=lambda n: work if n == 1 else [])
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.ended == [1], "the pass to end")
        assert dict(zip(pool.planned, pool.shares, strict=True)) == {PRESET: 4, favored: 5}
        assert {written.pending_max for _, written in pool.written} == {4, 5}
        await loop.signal("nudge", [str(favored)])
        await until(lambda: len(pool.planned) == 3, "the nudged preset")
        assert pool.shares[-1] == 4, "one more only once a pass"
        await loop.signal("nudge")
        async with asyncio.timeout(20):  # until the loop has taken in that the pass had no limit
            while (await loop.query("status"))["passes"] < 2:
                await asyncio.sleep(0.01)
        await loop.signal("nudge", [str(favored)])
        await until(lambda: len(pool.planned) == 4, "the nudged preset")
        assert pool.shares[-1] is None
        await loop.signal("stop")
        await loop.result()


async def test_while_somebody_waits_for_capacity_passes_come_sooner(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(work=lambda n: Work(n, [], pending_max=1, short=n < 10))
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await skipping.sleep(timedelta(minutes=1))
        assert pool.passes == 10
        await loop.signal("stop")
        await loop.result()


async def test_more_names_than_a_payload_should_have_are_a_pass(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await until(lambda: pool.passes == 1, "the first pass")
        await loop.signal("nudge", [str(uuid4()) for _ in range(WANTED_MAX + 1)])
        await until(lambda: pool.passes == 2, "a pass in place of their turns")
        assert (await loop.query("status"))["waiting"] == []
        await loop.signal("stop")
        await loop.result()
    assert pool.planned == []
