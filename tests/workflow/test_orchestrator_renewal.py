"""Continuing as new while a caller waits for a pass: the wait ends, and the next run carries out the request."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities.reconcile import Work
from prebuilds.api import OrchestratorNotRunning
from prebuilds.client import PrebuildsClient
from prebuilds.client import loop as loop_client
from tests.workflow.fakes import FakePool, start_loop, until
from workflows import orchestrator

BUSY, NUDGED, LATE = UUID(int=1), UUID(int=2), UUID(int=3)
DEADLINE_S = 20.0
LONG = 60
"""Events of a run that is long, beside the dozen of the run that follows it."""


async def _lengthen(loop: WorkflowHandle[Any, Any]) -> int:
    """Make this run's history longer than the next will be. Returns its length."""
    for _ in range(LONG):
        await loop.signal("halt")
    async with asyncio.timeout(DEADLINE_S):
        while (length := (await loop.describe()).history_length) < LONG:
            await asyncio.sleep(0.01)
    await loop.query("status")  # answered once the loop has handled the earlier signals
    return length


async def _until_waiting(loop: WorkflowHandle[Any, Any], preset: UUID) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while str(preset) not in (await loop.query("status"))["waiting"]:
            await asyncio.sleep(0.01)


async def _refusal(loop: WorkflowHandle[Any, Any], *presets: UUID) -> str | None:
    """Return the refusal of the update."""
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await loop.execute_update("reconcile", [str(preset) for preset in presets])
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.type


async def test_a_pass_asked_for_as_the_history_gets_long_is_run(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool()
    async with pool.worker(dev.client, sandboxed=False):
        loop = await start_loop(dev.client, interval_seconds=3600)
        await until(lambda: pool.passes == 1, "the first pass")
        first_run = (await loop.describe()).run_id
        monkeypatch.setattr(orchestrator, "HISTORY_EVENTS", await _lengthen(loop) + 1)
        async with asyncio.timeout(DEADLINE_S):  # the update's own task is the one that crosses the mark
            await PrebuildsClient(dev.client).reconcile()
        assert pool.passes >= 2
        await loop.signal("stop")
        await loop.result()
        assert (await loop.describe()).run_id != first_run


async def test_presets_asked_for_as_the_history_gets_too_long_are_reconciled_by_the_next_run(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_client, "RENEWAL_PAUSE_S", 0.05)
    pool = FakePool(work=lambda n: [BUSY] if n == 1 else [], hold=asyncio.Event())
    async with pool.worker(dev.client, sandboxed=False), asyncio.timeout(DEADLINE_S):
        loop = await start_loop(dev.client, interval_seconds=3600, max_parallel_presets=1)
        await pool.planning.wait()
        first_run = (await loop.describe()).run_id
        waiting = asyncio.create_task(_refusal(loop, NUDGED))
        await _until_waiting(loop, NUDGED)
        monkeypatch.setattr(orchestrator, "HISTORY_EVENTS_MAX", await _lengthen(loop))
        await loop.signal("set_interval", 1800)  # wakes the loop
        assert await waiting == "LoopRenewed", "it was not reconciled"
        assert await _refusal(loop, LATE) == "LoopRenewed"
        assert await _refusal(loop) == "LoopRenewed"
        assert (await loop.describe()).run_id == first_run, "it still waits for the busy one"
        asking = asyncio.create_task(PrebuildsClient(dev.client).reconcile([LATE]))
        assert pool.hold is not None
        pool.hold.set()
        await asking
        assert LATE in pool.planned
        await until(lambda: NUDGED in pool.planned, "what was asked for in the first run")
        assert (await loop.describe()).run_id != first_run
        await loop.signal("stop")
        await loop.result()


async def test_a_caller_waiting_for_a_pass_learns_that_the_loop_stops(dev: WorkflowEnvironment) -> None:
    pool = FakePool(work=lambda n: [BUSY] if n == 1 else [], hold=asyncio.Event())
    client = PrebuildsClient(dev.client)
    async with pool.worker(dev.client):
        loop = await start_loop(dev.client, interval_seconds=3600)
        await pool.planning.wait()
        waiting = asyncio.create_task(client.reconcile([BUSY]))
        await _until_waiting(loop, BUSY)
        await loop.signal("stop", "done")
        with pytest.raises(OrchestratorNotRunning):
            await waiting
        with pytest.raises(OrchestratorNotRunning):
            await client.reconcile()
        assert pool.hold is not None
        pool.hold.set()
        await loop.result()
        with pytest.raises(OrchestratorNotRunning):
            await client.reconcile()


async def test_a_caller_waiting_for_a_pass_may_give_up(dev: WorkflowEnvironment) -> None:
    pool = FakePool(work=lambda n: [BUSY] if n == 1 else [], hold=asyncio.Event())
    async with pool.worker(dev.client):
        loop = await start_loop(dev.client, interval_seconds=3600)
        await pool.planning.wait()
        waiting = asyncio.create_task(PrebuildsClient(dev.client).reconcile([BUSY]))
        await _until_waiting(loop, BUSY)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.hold is not None
        pool.hold.set()
        await loop.signal("stop")
        await loop.result()


async def test_a_child_s_summary_names_the_preset_by_its_path(dev: WorkflowEnvironment) -> None:
    """The path is shown also after a nudge, which has only the id."""
    pool = FakePool(work=lambda n: Work(n, [BUSY], paths=["acme/python/small"]) if n == 1 else [])
    async with pool.worker(dev.client):
        loop = await start_loop(dev.client, interval_seconds=3600)
        await until(lambda: len(pool.planned) == 1, "the pass")
        await loop.signal("nudge", [str(BUSY), str(LATE)])
        await until(lambda: len(pool.planned) == 3, "the nudge")
        await loop.signal("stop")
        await loop.result()
        begun = [
            event.user_metadata.summary.data.decode()
            async for event in loop.fetch_history_events()
            if event.HasField("start_child_workflow_execution_initiated_event_attributes")
        ]
    does = "create, delete and cancel as its plan says"
    named = ("acme/python/small", "acme/python/small", str(LATE))
    assert sorted(begun) == sorted(f'"Preset {name}: {does}"' for name in named)
