"""Starts, queries and replays a claim's workflow in tests, and makes answers for its fake activities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import Replayer

from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimResult, ClaimsResult
from prebuilds.temporal.converter import data_converter
from prebuilds.vocabulary import CLAIMS_QUEUE
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces

REQUEST = {"preset": "acme/python/small", "owner": "alice", "name": "dev", "on_empty": "wait"}
CLAIMED = ClaimResult(
    claim_id="c1",
    workspace_id=uuid4(),
    name="dev",
    owner="alice",
    initiator="alice",
    preset_id=uuid4(),
    source="prebuilt",
    miss_reason=None,
    build_id=uuid4(),
    claimed_at="2026-03-02T09:14:00Z",
    address="http://here",
)
GONE = ClaimPlace()


def queued(now: datetime, position: int = 1, minutes: float = 5) -> ClaimQueued:
    return ClaimQueued(position=position, deadline=now + timedelta(minutes=minutes))


def place(now: datetime, position: int = 1, minutes: float = 5) -> ClaimPlace:
    return ClaimPlace(waiting=queued(now, position, minutes))


def later() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def start(
    client: Client, *inputs: Any, workflow: str = "ClaimWorkspace", id: str = "c1"
) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        workflow,
        args=inputs,
        id=id,
        task_queue=CLAIMS_QUEUE,
        task_timeout=timedelta(seconds=1),  # events during a longer step are received before it ends
        result_type=ClaimsResult if workflow == "ClaimWorkspaces" else ClaimResult,
    )


async def failure_of(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    """Return the error with which the workflow failed, as a caller in any language sees it."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.non_retryable
    assert (await handle.query("status"))["state"] == "failed"
    return cause


async def check_canceled(handle: WorkflowHandle[Any, Any]) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert (await handle.query("status"))["state"] == "canceled"


async def kinds(handle: WorkflowHandle[Any, Any]) -> list[Any]:
    return [event.event_type async for event in handle.fetch_history_events()]


@asynccontextmanager
async def replayed(*handles: WorkflowHandle[Any, Any]) -> AsyncIterator[None]:
    yield
    replayer = Replayer(workflows=[ClaimWorkspace, ClaimWorkspaces], data_converter=data_converter)
    for handle in handles:
        history = await handle.fetch_history()
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        assert result.replay_failure is None


async def state_of(handle: WorkflowHandle[Any, Any]) -> str:
    return str((await handle.query("status"))["state"])


async def until_state(handle: WorkflowHandle[Any, Any], state: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (status := await handle.query("status"))["state"] != state:
            await asyncio.sleep(0.01)
    return dict(status)


async def until_recorded(handle: WorkflowHandle[Any, Any], kind: Any, times: int = 1) -> None:
    async with asyncio.timeout(20):
        while (await kinds(handle)).count(kind) < times:
            await asyncio.sleep(0.05)
