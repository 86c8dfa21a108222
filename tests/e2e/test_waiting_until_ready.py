"""A service waits for a claim's build through Temporal alone, and one build is a short history."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.enums.v1 import EventType

from prebuilds.api import WorkspaceBuildFailed, WorkspaceNotFound
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.vocabulary import CONTROL_QUEUE, BuildStatus, OnEmpty, build_id_of, build_workflow_id
from tests.e2e.dev_stack import DevStack

EVENTS_MAX = 8
"""Bound of events without those of workflow tasks, which a busy machine may repeat."""
HANDED_OUT = (
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
)
RELEASED_S = 20.0
"""Deadline for the release of a workspace whose start would go on for a minute."""
IDLE = {"command": ["sleep", "infinity"], "ready": None}


@pytest.fixture
async def client(stack: DevStack) -> PrebuildsClient:
    return await PrebuildsClient.connect(stack.facts["temporal_address"])


async def claim(client: PrebuildsClient, organization: str, name: str, **more: Any) -> ClaimResult:
    return await client.claim(preset=f"{organization}/python/small", owner="alice", name=name, **more)


async def check_history(client: PrebuildsClient, build_id: UUID) -> None:
    """Check that the build has at most one normal activity and few events."""
    events = (await client.temporal.get_workflow_handle(build_workflow_id(build_id)).fetch_history()).events
    activities = [e for e in events if e.HasField("activity_task_scheduled_event_attributes")]
    assert len(activities) <= 1
    events_kept = [e.event_type for e in events if e.event_type not in HANDED_OUT]
    assert len(events_kept) <= EVENTS_MAX, events_kept


async def test_a_claim_is_waited_for_until_it_is_handed_over(stack: DevStack, client: PrebuildsClient) -> None:
    stack.apply("ready", 1)
    stack.wait_whole("ready")
    claimed = await claim(client, "ready", "handed-over")
    done = await client.wait_until_ready(claimed, timedelta(seconds=30))
    assert (done.status, done.address) == (BuildStatus.SUCCEEDED, claimed.address)
    assert stack.ask("workspaces", "show", "alice/handed-over")["ready"]
    await check_history(client, claimed.build_id)
    await check_history(client, build_id_of(claimed.workspace_id, 1))  # it was created for the pool by the loop


async def test_a_created_workspace_has_an_address_at_its_end(stack: DevStack, client: PrebuildsClient) -> None:
    stack.apply("to-make", 0)
    made = await claim(client, "to-make", "to-make", on_empty=OnEmpty.CREATE)
    assert made.address is None
    done = await client.wait_until_ready(made)
    shown = stack.ask("workspaces", "show", "alice/to-make")
    assert done.address == shown["address"]
    assert done.address is not None
    await check_history(client, made.build_id)
    again = await client.wait_until_ready(made.build_id)
    assert again == done
    recorded = await client.temporal.start_workflow(
        "WorkspaceBuild", {"build_id": made.build_id}, id=build_workflow_id(made.build_id), task_queue=CONTROL_QUEUE
    )
    assert (await recorded.result())["address"] == done.address
    events = (await recorded.fetch_history()).events  # it has ended, so nothing is provisioned again
    assert not [e for e in events if e.HasField("activity_task_scheduled_event_attributes")]


async def test_a_wait_for_a_failed_build_gets_its_error(stack: DevStack, client: PrebuildsClient) -> None:
    stack.apply("unmade", 0, command=["false"], ready={"file": "never"})
    made = await claim(client, "unmade", "unmade", on_empty=OnEmpty.CREATE)
    with pytest.raises(WorkspaceBuildFailed) as refused:
        await client.wait_until_ready(made)
    assert refused.value.details["build_id"] == str(made.build_id)
    assert refused.value.details["error"]


async def test_a_wait_ends_at_its_own_timeout(stack: DevStack, client: PrebuildsClient) -> None:
    stack.apply("slow", 0, command=["sleep", "infinity"], ready={"file": "never"})
    made = await claim(client, "slow", "slow", on_empty=OnEmpty.CREATE)
    with pytest.raises(TimeoutError):
        await client.wait_until_ready(made, timedelta(seconds=0.5))
    begun = time.monotonic()
    assert stack.cli("release", "alice/slow", "--wait").code == 0
    assert time.monotonic() - begun < RELEASED_S, "its start is not waited for"
    start, deletion = stack.ask("workspaces", "show", str(made.workspace_id))["builds"]
    assert (start["status"], deletion["status"]) == ("canceled", "succeeded")
    assert str(made.workspace_id) not in stack.processes()
    with pytest.raises(WorkspaceBuildFailed, match="canceled"):
        await client.wait_until_ready(made)


async def test_a_repeated_claim_of_a_released_workspace_cannot_be_waited_for(
    stack: DevStack, client: PrebuildsClient
) -> None:
    stack.apply("let-go", 1, **IDLE)
    stack.wait_whole("let-go")
    claimed = await claim(client, "let-go", "let-go", claim_id="let-go-1")
    assert (await client.wait_until_ready(claimed)).status is BuildStatus.SUCCEEDED
    assert stack.cli("release", "alice/let-go", "--wait").code == 0
    assert await claim(client, "let-go", "let-go", claim_id="let-go-1") == claimed, "the same answer for ever"
    for build in (claimed, claimed.build_id):
        with pytest.raises(WorkspaceNotFound, match=r"alice/let-go is gone, released at .*new claim id") as refused:
            await client.wait_until_ready(build)
        assert refused.value.details["workspace_id"] == str(claimed.workspace_id)
    again = ("claim", "--preset", "let-go/python/small", "--owner", "alice", "--name", "let-go")
    output = stack.cli("--json", *again, "--claim-id", "let-go-1", "--wait-ready")
    assert (output.code, output.json["error"]["type"]) == (1, "WorkspaceNotFound")
    stack.apply("let-go", 0, **IDLE)


async def test_a_build_that_nobody_recorded_is_not_waited_for(stack: DevStack, client: PrebuildsClient) -> None:
    with pytest.raises(WorkspaceNotFound):
        await client.wait_until_ready(UUID(int=1))
