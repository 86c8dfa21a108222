"""Waiting for builds by a client of Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import Priority
from temporalio.service import RPCError

from prebuilds.api import WorkspaceBuildFailed
from prebuilds.client.base import TemporalPart
from prebuilds.client.durations import seconds_of
from prebuilds.failures.temporal import unanswered
from prebuilds.payloads import ClaimResult, WorkspaceBuildInput, WorkspaceBuildResult
from prebuilds.temporal.connecting import (
    OPERATION_TIMEOUT,
    PEOPLE_PRIORITY,
    described,
    reached,
    result_of,
    start_short,
)
from prebuilds.temporal.waiting import while_served
from prebuilds.vocabulary import CONTROL_QUEUE, BuildStatus, Transition, build_workflow_id

ATTACH_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.1)
"""Pauses between attempts to find a build's workflow. The process that records a build starts its workflow 3 to 80 ms
later, with search attributes that only that process knows. A build that ended within its claim has no workflow, so the
client waits this long in vain."""


class BuildsClient(TemporalPart):
    """The part of `PrebuildsClient` that waits for builds."""

    async def wait_until_ready(
        self, build: ClaimResult | UUID, timeout: timedelta | None = None
    ) -> WorkspaceBuildResult:
        """Wait until a build has succeeded: a claimed workspace is then handed over, a created one is ready.

        Args:
            build: What `claim` returned, or the id of any build.
            timeout: How long to wait; None for as long as the build may take.
        Returns:
            How the build ended, with the workspace's address. If the build had ended before the call, it is the
            workspace's present address.
        Raises:
            WorkspaceNotFound: No such build exists, or its workspace has been released. The same claim id always leads
                to this workspace, so getting another one takes a new claim id.
            WorkspaceBuildFailed: The build has failed or was cancelled. A failed hand-over is retried as a new build.
            TimeoutError: The build has not ended in time. It goes on.
            StackUnreachable: Temporal does not answer, or no control worker runs. The build goes on once one does.
        """
        build_id, search = (build, {}) if isinstance(build, UUID) else (build.build_id, _search_attributes(build))
        async with asyncio.timeout(seconds_of("timeout", timeout)):
            ended = while_served(self.temporal, self._await_build(build_id, search), f"build {build_id}")
            result = WorkspaceBuildResult.model_validate(await ended)
        if result.status is not BuildStatus.SUCCEEDED:
            details = {"build_id": str(build_id), "error": result.error}
            canceled = result.status is BuildStatus.CANCELED
            raise WorkspaceBuildFailed(
                f"build {build_id} {'was canceled' if canceled else f'has {result.status}: {result.error}'}", details
            )
        return result

    async def _await_build(self, build_id: UUID, search: Mapping[str, str | None]) -> Any:
        """Wait for a build's end and return its result.

        The build's workflow may not be started yet. If the build has ended already, its workflow runs again, to read
        the present state.
        """
        workflow_id = build_workflow_id(build_id)
        for tries, pause in enumerate(ATTACH_PAUSES_S):
            try:
                if (execution := await described(self.temporal, workflow_id)) is not None:
                    if tries == 0 and execution.status is WorkflowExecutionStatus.COMPLETED:
                        return await self._start_build(build_id, search, within=OPERATION_TIMEOUT)
                    return await self.temporal.get_workflow_handle(workflow_id).result()
            except WorkflowFailureError:
                break
            except RPCError as error:
                raise unanswered(error) from error
            await asyncio.sleep(pause)
        return await self._start_build(build_id, search)

    async def _start_build(
        self, build_id: UUID, search: Mapping[str, str | None], within: timedelta | None = None
    ) -> Any:
        """Start a build's workflow, or attach to it, and return its result. If the build has ended, also within its
        claim, the workflow only reads the result.

        Args:
            within: Timeout of the workflow, for a build that is known to have ended; None for no timeout.
        """
        handle = await reached(
            start_short(
                self.temporal,
                "WorkspaceBuild",
                WorkspaceBuildInput(build_id=build_id),
                id=build_workflow_id(build_id),
                task_queue=CONTROL_QUEUE,
                search=search,
                priority=Priority(priority_key=PEOPLE_PRIORITY, fairness_key=str(build_id)),
                within=within,
            )
        )
        return await result_of(handle)


def _search_attributes(claimed: ClaimResult) -> dict[str, str | None]:
    return {"owner": claimed.owner, "initiator": claimed.initiator, "transition": Transition.START}
