"""Starting what is recorded. Whoever commits a build starts its workflow right after; the relay makes up for the rest.

Nothing here decides anything: a lost start costs the relay's sweep, a lost nudge costs one interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.connecting import PEOPLE_PRIORITY, start_short
from prebuilds.metrics import METRICS
from prebuilds.payloads import InventoryInput, OrchestratorInput, WorkspaceBuildInput
from prebuilds.settings import Settings
from prebuilds.store import actions, builds, control
from prebuilds.store.build_logs import forget_old_logs
from prebuilds.store.builds import BuildFacts
from prebuilds.store.claim_queue import take_unattended, withdraw
from prebuilds.store.control import Control
from prebuilds.store.events import forget_old_events
from prebuilds.store.hand_over import Served, serve_all_waiters
from prebuilds.store.inventory import take_inventory_turn
from prebuilds.vocabulary import (
    CONTROL_QUEUE,
    INVENTORY_ID,
    ORCHESTRATOR_ID,
    PREBUILDS_USER,
    BuildStatus,
    Transition,
    build_workflow_id,
)

logger = logging.getLogger(__name__)

NUDGE_WINDOW_S = 0.02
"""Nudges of this time go out as one signal."""
NUDGE_SPACING_S = 1.0
"""Between two nudges of one preset, or half of it when another preset's goes out anyway: the first goes at once, and a
burst of 300 claims is two reconciles. Each costs as much as two claims, so that four a second for each of four busy
pools took a third of a machine with two cores."""
NUDGED_MAX = 500
"""Named in one signal; beyond that a pass over all costs less."""
START_DELAY_S = 0.01
"""Builds start after the answer that they follow has left, not beside it; what this time records is read at once."""
STARTS_AT_ONCE = 10
"""Of one process; more would only queue in the server, in front of a claim's own start."""
SWEEP_INTERVAL_S = 2.0
KEEP_ALIVE_INTERVAL_S = 60.0
INVENTORY_TIMEOUT = timedelta(minutes=30)
"""Of one comparison; hosts that are away cost a minute for every twenty of them."""
SIGNAL_TIMEOUT = timedelta(seconds=5)

DELETE_PRIORITY, CREATE_PRIORITY = 2, 4
"""Within a queue: after what a person waits for deletions, which free what creations need. The loop's own is 3."""


class Dispatcher:
    """Starts builds' workflows and nudges the loop, in the background of whoever committed."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._nudges: dict[UUID, float] = {}
        """When each preset is due."""
        self._nudged_at: dict[UUID, float] = {}
        """Within the last `NUDGE_SPACING_S`."""
        self._alarm: asyncio.TimerHandle | None = None
        self._recorded: set[UUID] = set()

    def start_builds(self, build_ids: Iterable[UUID]) -> None:
        """Start the workflows of recorded builds, soon. Call after the commit."""
        first = not self._recorded
        self._recorded.update(build_ids)
        if first and self._recorded:
            self._spawn(self._start_recorded())

    def cancel_builds(self, build_ids: Iterable[UUID]) -> None:
        """Cancel the workflows of builds that were cancelled, soon. Call after the commit.

        One that is lost is made up for: the relay cancels what is canceling again, and what has ended ends by itself
        once a provisioner takes it up.
        """
        for build_id in build_ids:
            self._spawn(self._cancel(build_id))

    def nudge(self, preset_ids: Iterable[UUID], *, urgent: bool = False) -> None:
        """Ask the loop to reconcile these presets now, soon. Call after the commit. A stopped loop stays stopped.

        Args:
            urgent: Also when they were nudged a moment ago.
        """
        now = asyncio.get_running_loop().time()
        for preset in preset_ids:
            spaced = 0.0 if urgent else self._nudged_at.get(preset, 0.0) + NUDGE_SPACING_S
            due = max(now + NUDGE_WINDOW_S, spaced)
            self._nudges[preset] = min(due, self._nudges.get(preset, due))
        self._nudge_later()

    def follow(self, served: Served) -> None:
        """Go on after a hand-over: tell who waited, start the claims' builds, refill. Call after the commit."""
        for workflow_id in served.workflow_ids:
            self._spawn(self._wake(workflow_id))
        for labels in served.labels:
            METRICS.claim_decided(labels, None)
        self.start_builds(served.build_ids)
        self.nudge(served.preset_ids)

    async def drain(self) -> None:
        """Do what was asked for so far, and wait for it; called before the process ends."""
        self._nudges = dict.fromkeys(self._nudges, 0.0)
        self._nudge_now()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("A background start failed; the relay will repeat it", exc_info=error)

    def _nudge_later(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._nudges:
            self._alarm = asyncio.get_running_loop().call_at(min(self._nudges.values()), self._nudge_now)

    def _nudge_now(self) -> None:
        now = asyncio.get_running_loop().time()
        # Whoever is due soon comes along: one signal for all busy presets costs the loop less than one for each.
        soon = now + NUDGE_SPACING_S / 2 if min(self._nudges.values(), default=inf) <= now else now
        due = sorted(preset for preset, at in self._nudges.items() if at <= soon)
        self._nudged_at = {preset: at for preset, at in self._nudged_at.items() if at > now - NUDGE_SPACING_S}
        for preset in due:
            self._nudged_at[preset] = now
            del self._nudges[preset]
        self._nudge_later()
        if due:
            self._spawn(self._send_nudges(due))

    async def _send_nudges(self, presets: Sequence[UUID]) -> None:
        if len(presets) > NUDGED_MAX:
            presets = []  # all
        handle = self._client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            await handle.signal("nudge", [str(preset) for preset in presets], rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the loop is stopped, and is to stay so
                raise

    async def _wake(self, workflow_id: str) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).signal("wake", rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the relay withdraws it
                raise

    async def _cancel(self, build_id: UUID) -> None:
        async with self._starting:
            await self._ask_to_end(build_id)

    async def _ask_to_end(self, build_id: UUID) -> None:
        try:
            await self._client.get_workflow_handle(build_workflow_id(build_id)).cancel(rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: it was not started yet, or has ended
                raise

    async def _start_recorded(self) -> None:
        await asyncio.sleep(START_DELAY_S)
        ids, self._recorded = list(self._recorded), set()
        facts = await builds.read_builds(self._engine, ids)
        await asyncio.gather(*[self._start(build) for build in facts if not build.status.ended])

    async def _start(self, build: BuildFacts) -> None:
        path = f"{build.organization}/{build.template}"
        async with self._starting:
            await start_short(
                self._client,
                "WorkspaceBuild",
                WorkspaceBuildInput(
                    build_id=build.id,
                    queue=build.queue,
                    timeout_seconds=build.build_timeout.total_seconds(),
                ),
                id=build_workflow_id(build.id),
                task_queue=CONTROL_QUEUE,
                search={
                    "preset": f"{path}/{build.preset}" if build.preset else None,
                    "template": path,
                    "initiator": PREBUILDS_USER if build.pool else build.initiator,
                    "owner": build.owner,
                    "transition": build.transition,
                },
                priority=Priority(
                    priority_key=_priority(build),
                    fairness_key=str(build.preset_id or build.workspace_id),
                ),
            )
            if build.status is BuildStatus.CANCELING:  # the start has only attached to what runs
                await self._ask_to_end(build.id)


def _priority(build: BuildFacts) -> int:
    if not build.pool:
        return PEOPLE_PRIORITY
    return DELETE_PRIORITY if build.transition is Transition.DELETE else CREATE_PRIORITY


def orchestrator_input(wanted: Control, settings: Settings) -> OrchestratorInput:
    """How the loop is to run: as its operator last said, else as this deployment is configured."""
    interval = wanted.loop_interval or settings.reconcile_interval
    return OrchestratorInput(
        interval_seconds=interval.total_seconds(), max_parallel_presets=settings.max_parallel_presets
    )


async def start_inventory(client: Client, *, fix: bool) -> WorkflowHandle[Any, Any]:
    """Compare what exists with what is recorded; attaches to a comparison that runs, also to one that may not fix."""
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
    """Start the loop's workflow unless it runs. Returns whether this call started it."""
    handle = client.get_workflow_handle(ORCHESTRATOR_ID)
    try:
        if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            return False
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    await client.start_workflow(
        "PrebuildsOrchestrator",
        input,
        id=ORCHESTRATOR_ID,
        task_queue=CONTROL_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="Keeps every preset's pool at its desired number of prebuilds",
    )
    return True


class Relay:
    """Sweeps the outbox in every control worker, whether the loop runs, is paused or stopped."""

    def __init__(self, engine: AsyncEngine, client: Client, dispatcher: Dispatcher, settings: Settings) -> None:
        self._engine = engine
        self._client = client
        self._dispatcher = dispatcher
        self._settings = settings

    async def run(self) -> None:
        """Sweep until cancelled. A failed sweep is logged and repeated: the relay must outlive every outage."""
        next_keep_alive = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self.sweep()
                if clock() >= next_keep_alive:
                    if self._settings.enabled:
                        await self.keep_loop_alive()
                    if await take_inventory_turn(self._engine):
                        await start_inventory(self._client, fix=True)
                    next_keep_alive = clock() + KEEP_ALIVE_INTERVAL_S
            except Exception as error:
                logger.warning("The relay's sweep failed and will be repeated", extra={"error": repr(error)})
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> Sequence[UUID]:
        """Start lost builds, and the builds of workspaces whose time has come; look after claims that wait; clear away
        old logs and events.

        Returns:
            The builds that it started.
        """
        started = [*await actions.take_due_actions(self._engine), *await builds.take_due_builds(self._engine)]
        self._dispatcher.start_builds(started)
        await self._attend_queue()
        await forget_old_logs(self._engine)
        await forget_old_events(self._engine)
        return started

    async def _attend_queue(self) -> None:
        """Wake waiters whose signal was lost; withdraw those that nobody stands behind any more."""
        self._dispatcher.follow(await serve_all_waiters(self._engine))
        gone = []
        for waiter in await take_unattended(self._engine):
            if waiter.late or not await self._lives(waiter.workflow_id):
                gone.append(waiter)
            elif waiter.decided:
                self._dispatcher.follow(Served(workflow_ids=[waiter.workflow_id]))
        if gone and (withdrawn := await withdraw(self._engine, gone)):
            logger.info("Claims were withdrawn from the queue", extra={"claim_ids": withdrawn})

    async def _lives(self, workflow_id: str) -> bool:
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return description.status is WorkflowExecutionStatus.RUNNING

    async def keep_loop_alive(self) -> bool:
        """Start the loop when it is wanted and gone: a terminated one comes back, a stopped one does not."""
        wanted = await control.read_control(self._engine)
        if wanted.loop == "stopped" or await self._ended_on_purpose(since=wanted.loop_since):
            return False
        started = await start_orchestrator(self._client, orchestrator_input(wanted, self._settings))
        if started:
            await control.record_start(self._engine, None)
            logger.info("The loop was not running and is started")
        return started

    async def _ended_on_purpose(self, *, since: datetime) -> bool:
        """A loop that completed after it was wanted was stopped, even when its worker could not write that down."""
        try:
            description = await self._client.get_workflow_handle(ORCHESTRATOR_ID).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        closed_at = description.close_time
        return description.status is WorkflowExecutionStatus.COMPLETED and closed_at is not None and closed_at > since
