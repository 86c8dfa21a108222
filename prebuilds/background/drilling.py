"""Starts due drills, in every control worker, and releases workspaces that a drill has left behind."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import DrillInput
from prebuilds.store.drill_schedules import record_due
from prebuilds.store.drill_steps import release_own
from prebuilds.store.drills import find_left_behind, take_open
from prebuilds.vocabulary import CONTROL_QUEUE, drill_workflow_id

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
LEFT_BEHIND_EVERY = 12
"""Number of steps between two searches for workspaces that were left behind: a minute."""


class Driller:
    """Records due drills, starts their workflows, and releases workspaces that drills have left behind."""

    def __init__(self, engine: AsyncEngine, client: Client, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._client = client
        self._dispatcher = dispatcher

    async def run(self) -> None:
        """Repeat `step` until cancelled. A failure is logged, and the step tried again."""
        steps = 0
        while True:
            try:
                await self.step()
                if steps % LEFT_BEHIND_EVERY == 0:
                    await self.release_left_behind()
                steps += 1
            except Exception as error:
                logger.warning("Drills could not be started; it is tried again", extra={"error": repr(error)})
            await asyncio.sleep(INTERVAL_S)

    async def step(self) -> list[UUID]:
        """Record the drills that are due, and start the workflows of those that have not ended.

        Returns:
            The drills whose workflows were started, for the first time or again.
        """
        await record_due(self._engine)
        begun = await take_open(self._engine)
        for drill_id in begun:
            await start_drill(self._client, drill_id)
        return begun

    async def release_left_behind(self) -> list[UUID]:
        """Release the workspaces of drills that have ended. Return their ids."""
        left = await find_left_behind(self._engine)
        for workspace_id in left:
            recorded = await release_own(self._engine, workspace_id)
            if recorded is None:
                continue
            self._dispatcher.cancel_builds(recorded.canceled)
            self._dispatcher.start_builds([recorded.id])
            logger.warning("A drill had left a workspace, which is released", extra={"workspace_id": str(workspace_id)})
        return left


async def start_drill(client: Client, drill_id: UUID) -> None:
    """Start a drill's workflow, or attach to the running one. A workflow that failed is started again."""
    await client.start_workflow(
        "DrillTemplate",
        DrillInput(drill_id=drill_id),
        id=drill_workflow_id(drill_id),
        task_queue=CONTROL_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="Claims a prebuild for nobody, tries it out and releases it",
    )
