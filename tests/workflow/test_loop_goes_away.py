"""Operators wait for a loop that is terminated or that no worker continues."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from prebuilds.api import StackUnreachable
from prebuilds.background.dispatch import Dispatcher
from prebuilds.client import PrebuildsClient
from prebuilds.operations.context import Context
from prebuilds.operations.inventory import InventoryOperations
from prebuilds.operations.lint import LintOperations
from prebuilds.operations.loop import LoopOperations
from prebuilds.operations.workspaces import WorkspaceOperations
from prebuilds.settings import Settings
from prebuilds.store.loop import read_control
from prebuilds.vocabulary import CONTROL_QUEUE, ORCHESTRATOR_ID
from prebuilds.vocabulary.actors import OPERATOR


@workflow.defn(name="PrebuildsOrchestrator", sandboxed=False)
class Drains:
    """A loop whose drain does not end by itself."""

    def __init__(self) -> None:
        self._state = "running"

    @workflow.run
    async def run(self, input: dict[str, Any]) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def stop(self, cause: Any) -> None:
        self._state = "draining"

    @workflow.query
    def status(self) -> dict[str, Any]:
        times = dict.fromkeys(("started_at", "last_pass_at", "next_pass_at"), "2026-03-01T09:00:00Z")
        lists: dict[str, list[str]] = {"reconciling": [], "waiting": [], "ignored": []}
        return {"state": self._state, "cause": None, "passes": 1, "interval_seconds": 15, **times, **lists}


async def start_loop(client: Client) -> None:
    await client.start_workflow("PrebuildsOrchestrator", {}, id=ORCHESTRATOR_ID, task_queue=CONTROL_QUEUE)


async def test_a_loop_that_is_terminated_has_stopped_and_can_be_started(
    dev: WorkflowEnvironment, engine: AsyncEngine
) -> None:
    system = LoopOperations(Context(engine, dev.client, Dispatcher(engine, dev.client), Settings()))
    loop = dev.client.get_workflow_handle(ORCHESTRATOR_ID)

    async def terminate_when_draining() -> str | None:
        while (await system.status()).state != "draining":
            await asyncio.sleep(0.02)
        run_id = (await loop.describe()).run_id
        await asyncio.sleep(0.1)  # most of it in front of the wait for its result
        await loop.terminate(reason="by an operator")
        return run_id

    async with Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[Drains]):
        await start_loop(dev.client)
        stopped, _ = await asyncio.gather(system.stop(OPERATOR, "maintenance", wait=True), terminate_when_draining())
        assert (stopped.changed, stopped.state, stopped.cause) == (True, "stopped", "maintenance")
        wanted = await read_control(engine)
        assert (wanted.loop, wanted.stop_cause) == ("stopped", "maintenance"), "nothing brings it back"

        await system.start(OPERATOR)
        await loop.signal("stop", "again")
        started, before = await asyncio.gather(_start_when_draining(system), terminate_when_draining())
        assert started
        assert (await loop.describe()).run_id != before


async def _start_when_draining(system: LoopOperations) -> bool:
    while (await system.status()).state != "draining":
        await asyncio.sleep(0.01)
    return (await system.start(OPERATOR)).changed


async def test_a_pass_without_a_worker_fails_at_once(dev: WorkflowEnvironment) -> None:
    await start_loop(dev.client)
    async with asyncio.timeout(10):  # the server itself would take half a minute
        with pytest.raises(StackUnreachable, match="no control worker is there for the pass"):
            await PrebuildsClient(dev.client).reconcile([UUID(int=1)])


async def test_a_stop_without_a_worker_fails_at_once_and_stays_requested(
    dev: WorkflowEnvironment, engine: AsyncEngine
) -> None:
    loop = LoopOperations(Context(engine, dev.client, Dispatcher(engine, dev.client), Settings()))
    await start_loop(dev.client)
    async with asyncio.timeout(10):  # it waited for ever
        with pytest.raises(StackUnreachable, match=r"no control worker is there for the loop to end.*prebuilds worker"):
            await loop.stop(OPERATOR, "maintenance", wait=True)
    async with Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[Drains]):
        assert (await loop.status()).state == "draining"


@pytest.mark.parametrize("what", ["build 00000000", "the inventory", "the plan of a/b/c"])
async def test_requests_without_a_worker_fail_at_once(dev: WorkflowEnvironment, engine: AsyncEngine, what: str) -> None:
    context = Context(engine, dev.client, Dispatcher(engine, dev.client), Settings())
    requests = {
        "build 00000000": lambda: WorkspaceOperations(context).wait(UUID(int=1)),
        "the inventory": lambda: InventoryOperations(dev.client).compare(),
        "the plan of a/b/c": lambda: LintOperations(dev.client).preset("a/b/c"),
    }
    async with asyncio.timeout(10):  # they waited for ever, or for the workflow's half an hour
        with pytest.raises(StackUnreachable, match=f"no control worker is there for {what}.*prebuilds worker"):
            await requests[what]()


async def test_an_inventory_with_fix_fails_at_once_too(dev: WorkflowEnvironment) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(StackUnreachable, match="no control worker is there for the inventory"):
            await InventoryOperations(dev.client).fix(OPERATOR)
