"""A build for a host that takes no task: it ends as unavailable if the host is away, and waits if it is busy."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.builds import BuildActivities, BuildOutcome, CloseBuild
from prebuilds.payloads import WorkspaceBuildInput, WorkspaceBuildResult
from prebuilds.vocabulary import CONTROL_QUEUE, BuildStatus
from tests.postgres.pool_steps import NotedDispatcher
from workflows import workspace_build
from workflows.workspace_build import WorkspaceBuild

QUEUE = "somewhere-people@0123456789ab"
AWAY = f"no worker serves {QUEUE}; start one on that host"


@pytest.mark.parametrize("busy_for", [0, 2])
async def test_a_host_that_takes_nothing_up_is_unavailable_once_it_asks_for_nothing(
    skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch, busy_for: int
) -> None:
    # Shorter than it is: the test server skips no time while an activity waits for its worker.
    monkeypatch.setattr(workspace_build, "HOST_TIMEOUT", timedelta(seconds=0.5))
    closed: list[CloseBuild] = []
    queues: list[str] = []

    @activity.defn
    async def close_build(input: CloseBuild) -> BuildOutcome:
        closed.append(input)
        return BuildOutcome(input.status, input.error)

    @activity.defn
    async def host_is_there(queue: str) -> bool:
        queues.append(queue)
        return len(queues) <= busy_for

    build_id = uuid4()
    async with Worker(
        skipping.client,
        task_queue=CONTROL_QUEUE,
        workflows=[WorkspaceBuild],
        activities=[close_build, host_is_there],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        result: WorkspaceBuildResult = await skipping.client.execute_workflow(
            "WorkspaceBuild",
            WorkspaceBuildInput(build_id=build_id, queue=QUEUE, timeout_seconds=600),
            id=f"workspace-build/{build_id}",
            task_queue=CONTROL_QUEUE,
            result_type=WorkspaceBuildResult,
        )
    assert queues == [QUEUE] * (busy_for + 1)
    assert closed == [CloseBuild(build_id, BuildStatus.FAILED, AWAY, "ProvisionerUnavailable")]
    assert (result.status, result.error) == (BuildStatus.FAILED, AWAY)


@activity.defn
async def nothing() -> None: ...


async def test_a_host_is_there_while_it_asks_for_either_kind_of_builds(dev: WorkflowEnvironment) -> None:
    control = BuildActivities(None, NotedDispatcher())  # type: ignore[arg-type]  # it asks Temporal alone

    async def is_there(queue: str) -> bool:
        return bool(await ActivityEnvironment(client=dev.client).run(control.host_is_there, queue))

    assert not await is_there(QUEUE)
    async with Worker(dev.client, task_queue="somewhere@0123456789ab", activities=[nothing]):
        async with asyncio.timeout(20):
            while not await is_there(QUEUE):
                await asyncio.sleep(0.01)
        assert await is_there("somewhere@0123456789ab")
        assert not await is_there("somewhere@another")
        assert not await is_there("elsewhere@0123456789ab")
