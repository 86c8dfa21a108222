"""A build for a host that is away: it ends after its timeout, as unavailable, and is never taken for done."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.builds import BuildOutcome, CloseBuild
from prebuilds.payloads import WorkspaceBuildInput, WorkspaceBuildResult
from prebuilds.vocabulary import CONTROL_QUEUE, BuildStatus
from workflows import workspace_build
from workflows.workspace_build import WorkspaceBuild


async def test_a_host_that_takes_nothing_up_is_unavailable(
    skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shorter than it is: the test server skips no time while an activity waits for its worker.
    monkeypatch.setattr(workspace_build, "HOST_TIMEOUT", timedelta(seconds=0.5))
    closed: list[CloseBuild] = []

    @activity.defn
    async def close_build(input: CloseBuild) -> BuildOutcome:
        closed.append(input)
        return BuildOutcome(input.status, input.error)

    build_id, queue = uuid4(), "somewhere-people@0123456789ab"
    async with Worker(
        skipping.client,
        task_queue=CONTROL_QUEUE,
        workflows=[WorkspaceBuild],
        activities=[close_build],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        result: WorkspaceBuildResult = await skipping.client.execute_workflow(
            "WorkspaceBuild",
            WorkspaceBuildInput(build_id=build_id, queue=queue, timeout_seconds=600),
            id=f"workspace-build/{build_id}",
            task_queue=CONTROL_QUEUE,
            result_type=WorkspaceBuildResult,
        )
    error = f"no worker serves {queue}; start one on that host"
    assert closed == [CloseBuild(build_id, BuildStatus.FAILED, error, "ProvisionerUnavailable")]
    assert (result.status, result.error) == (BuildStatus.FAILED, error)
