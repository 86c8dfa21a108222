"""The relay, which runs in every control worker and makes up for every lost start, signal and wake-up.

It also starts the two workflows of which there is only one each: the loop and the inventory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from prebuilds.background.demand import DemandCounter
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import InventoryInput, OrchestratorInput
from prebuilds.settings import Settings
from prebuilds.store import actions, build_record, leases, loop
from prebuilds.store.claim_queue_sweep import take_due_waiters, withdraw_waiters
from prebuilds.store.hand_over import Served, serve_all_waiters
from prebuilds.store.inventory import take_inventory_turn
from prebuilds.store.loop import Control
from prebuilds.store.people import refuse_waiting
from prebuilds.temporal.connecting import described
from prebuilds.vocabulary import CONTROL_QUEUE, INVENTORY_ID, ORCHESTRATOR_ID

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 2.0
KEEP_ALIVE_INTERVAL_S = 60.0
UNBROKEN_S = 60.0
"""Seconds of sweeps without a failure before a relay releases workspaces whose lease has ended. In this time, callers
that could not reach the database renew their leases, and the loop or a host notices a restore, which may have lost
renewals."""
LOOP_NUMBER = "loop_number"
"""The memo's key for the number of the loop's start. A run that continues as new keeps the memo."""
INVENTORY_TIMEOUT = timedelta(minutes=30)
"""The limit for one comparison. Hosts that are away cost a minute for every twenty of them."""


def orchestrator_input(wanted: Control, settings: Settings) -> OrchestratorInput:
    """Return the loop's input, with the interval that an operator has set last, or else the deployment's."""
    interval = wanted.loop_interval or settings.reconcile_interval
    return OrchestratorInput(
        interval_seconds=interval.total_seconds(),
        max_parallel_presets=settings.max_parallel_presets,
        loop_number=wanted.loop_number,
    )


async def start_inventory(client: Client, *, fix: bool) -> WorkflowHandle[Any, Any]:
    """Start the inventory, or attach to the one that runs, even if that one was started without *fix*.

    Args:
        fix: Whether it acts on what it finds, or reports only.
    """
    return await client.start_workflow(
        "ReconcileInventory",
        InventoryInput(fix=fix),
        id=INVENTORY_ID,
        task_queue=CONTROL_QUEUE,
        execution_timeout=INVENTORY_TIMEOUT,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="Compares what exists with what is recorded",
    )


async def start_orchestrator(client: Client, input: OrchestratorInput) -> bool:
    """Start the loop's workflow unless it runs; return whether this call has started it."""
    found = await described(client, ORCHESTRATOR_ID)
    if found is not None and found.status is WorkflowExecutionStatus.RUNNING:
        return False
    await client.start_workflow(
        "PrebuildsOrchestrator",
        input,
        id=ORCHESTRATOR_ID,
        task_queue=CONTROL_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="Keeps every preset's pool at its desired number of prebuilds",
        memo={LOOP_NUMBER: input.loop_number},
    )
    return True


async def record_unwritten_stop(engine: AsyncEngine, client: Client) -> bool:
    """Record the stop of a loop that could not record it itself, such as while the database was away.

    Only a stop completes a loop, and the memo says which start it came from. So Temporal's clock is not compared with
    the database's.

    Returns:
        Whether a stop was recorded.
    """
    wanted = await loop.read_control(engine)
    found = await described(client, ORCHESTRATOR_ID)
    if wanted.loop != "running" or found is None or found.status is not WorkflowExecutionStatus.COMPLETED:
        return False
    number = (await found.memo()).get(LOOP_NUMBER)
    if number is not None and number != wanted.loop_number:
        return False  # the loop was started again since
    cause = "stopped while the database was away; the workflow's result has the cause"
    await loop.record_stop(engine, cause, wanted.loop_number)
    return True


class Relay:
    """Sweeps the outbox, whether the loop runs, is paused or is stopped."""

    def __init__(self, engine: AsyncEngine, client: Client, dispatcher: Dispatcher, settings: Settings) -> None:
        self._engine = engine
        self._client = client
        self._dispatcher = dispatcher
        self._settings = settings
        self._demand = DemandCounter(engine)
        self._unbroken_since: float | None = None
        """Time of this relay's first sweep since its last failure, by the event loop's clock; None before that."""

    async def run(self) -> None:
        """Sweep until cancelled. A failed sweep is logged and repeated: the relay must outlive every outage."""
        next_keep_alive = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self.sweep()
                if self._unbroken_since is None:
                    self._unbroken_since = clock()
                if clock() >= next_keep_alive:
                    if self._settings.enabled:
                        await self.keep_loop_alive()
                    if await take_inventory_turn(self._engine):
                        await leases.wake_forgotten(self._engine)
                        await start_inventory(self._client, fix=True)
                    next_keep_alive = clock() + KEEP_ALIVE_INTERVAL_S
            except Exception as error:
                self._unbroken_since = None
                logger.warning("The relay's sweep failed; it is tried again", extra={"error": repr(error)})
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> Sequence[UUID]:
        """Start due and lost builds, serve waiting claims, and count claims.

        Returns:
            The ids of the builds that it has started for the first time or again.
        """
        begun = await actions.take_due_actions(self._engine, leases=self._may_release())
        self._dispatcher.start_builds(begun)
        lost = await build_record.take_due_builds(self._engine)
        self._dispatcher.repeat_starts(lost)
        await self._attend_queue()
        await self._demand.step()
        return [*begun, *lost]

    def _may_release(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._unbroken_since is not None and now - self._unbroken_since >= UNBROKEN_S

    async def _attend_queue(self) -> None:
        """Look after the queue of waiting claims.

        Refuse claims whose owner may claim nothing any more, serve those for which a prebuild is ready, wake those
        whose signal was lost, and withdraw those whose workflow has ended or whose deadline has passed.
        """
        self._dispatcher.follow_up(Served(workflow_ids=await refuse_waiting(self._engine)))
        self._dispatcher.follow_up(await serve_all_waiters(self._engine))
        gone = []
        for waiter in await take_due_waiters(self._engine):
            if waiter.late or not await self._is_running(waiter.workflow_id):
                gone.append(waiter)
            elif waiter.decided:
                self._dispatcher.follow_up(Served(workflow_ids=[waiter.workflow_id]))
        if gone and (withdrawn := await withdraw_waiters(self._engine, gone)):
            logger.info("Claims were withdrawn from the queue", extra={"claim_ids": withdrawn})

    async def _is_running(self, workflow_id: str) -> bool:
        found = await described(self._client, workflow_id)
        return found is not None and found.status is WorkflowExecutionStatus.RUNNING

    async def keep_loop_alive(self) -> bool:
        """Start the loop if it should be running but is not. A terminated loop is started again, a stopped one is not.

        Returns:
            Whether this call has started it.
        """
        seen = await loop.read_control(self._engine)
        if seen.loop == "stopped" or await record_unwritten_stop(self._engine, self._client):
            return False
        found = await described(self._client, ORCHESTRATOR_ID)
        if found is not None and found.status is WorkflowExecutionStatus.RUNNING:
            return False
        # Written before the start, and only if the row is still as it was read: a stop in between is not undone.
        wanted = await loop.record_restart(self._engine, seen)
        if wanted is None:
            return False
        started = await start_orchestrator(self._client, orchestrator_input(wanted, self._settings))
        if started:
            logger.info("The loop was not running; it is started again")
        return started
