"""Finds out which task queues no worker polls, which were polled lately, and which builds are paused."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Literal

from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue, TaskQueueVersioningInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.vocabulary import CONTROL_QUEUE

QUERIES_AT_ONCE = 10
PAUSED_MAX = 10
"""The most paused builds that are named."""
WARNINGS_TIMEOUT_S = 1.0
"""The time for all queues together, in seconds. `status` must not wait for a Temporal that is away."""
SILENT_AFTER = timedelta(seconds=90)
"""A poller of a workflow queue that is silent for longer is gone. A living worker polls again within 60 s, since its
workflow tasks are too short to delay that."""

NO_ANSWER = (RPCError, RuntimeError, ValueError)
"""How a question fails while Temporal is away: a client that cannot connect raises the last two."""

Kind = Literal["activity", "workflow"]
Version = tuple[str, str] | None
"""A worker deployment's name and a build id; None for workers without a version."""
_TYPES = {
    "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    "workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
}


async def queues_without_pollers(client: Client, queues: Collection[str], kind: Kind = "activity") -> set[str]:
    """Return those of *queues* that no worker polls. A provisioner queue is served when its plain name has a poller.

    There is no time limit; the caller sets one.

    The server remembers a poller for five minutes. A poller of a workflow queue counts as gone after `SILENT_AFTER`. A
    poller of an activity queue does not, since long builds may take all slots of its worker.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    at_once = asyncio.Semaphore(QUERIES_AT_ONCE)

    async def is_served(queue: str) -> bool:
        async with at_once:
            description = await _describe_queue(client, queue, kind)
        return any(kind == "activity" or _silence(poller) <= SILENT_AFTER for poller in description.pollers)

    names = sorted(set(queues))
    served = await asyncio.gather(*[is_served(name) for name in names])
    return {name for name, yes in zip(names, served, strict=True) if not yes}


async def idle_versions(client: Client, queues: Collection[str]) -> dict[str, set[Version]]:
    """Return the workflow queues whose polling workers all get no tasks, since another version is current: queue -> the
    versions of these workers; None stands for workers without a version.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    found: dict[str, set[Version]] = {}
    for queue in sorted(queues):
        description = await _describe_queue(client, queue, "workflow")
        polling = {_version(poller) for poller in description.pollers if _silence(poller) <= SILENT_AFTER}
        if polling and not polling & _versions_with_tasks(description.versioning_info):
            found[queue] = polling
    return found


def _version(poller: PollerInfo) -> Version:
    options = poller.deployment_options
    versioned = options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    return (options.deployment_name, options.build_id) if versioned else None


def _versions_with_tasks(info: TaskQueueVersioningInfo) -> set[Version]:
    """Return the versions that get a queue's tasks. Without a current version, workers without a version get them."""
    current, ramping = info.current_deployment_version, info.ramping_deployment_version
    found: set[Version] = {(current.deployment_name, current.build_id) if current.build_id else None}
    if info.ramping_version_percentage:
        found.add((ramping.deployment_name, ramping.build_id) if ramping.build_id else None)
    return found


async def paused_builds(client: Client) -> list[str]:
    """Return workflows of builds whose activity somebody has paused, at most `PAUSED_MAX`; none where the server cannot
    tell.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    paused = 'TemporalPauseInfo IS NOT NULL AND WorkflowType = "WorkspaceBuild" AND ExecutionStatus = "Running"'
    try:
        return [found.id async for found in client.list_workflows(paused, limit=PAUSED_MAX)]
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:  # the server has no such search attribute
            raise
        return []


async def polled_within(client: Client, queues: Collection[str], within: timedelta) -> bool:
    """Whether a worker has polled one of these activity queues within this time.

    A worker with a free slot polls at least once a minute. A worker whose slots are all taken does not poll.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    descriptions = await asyncio.gather(*[_describe_queue(client, queue, "activity") for queue in queues])
    return any(_silence(poller) <= within for description in descriptions for poller in description.pollers)


async def control_is_unserved(client: Client) -> bool:
    """Whether no control worker serves the control queue; False when Temporal does not answer."""
    try:
        return bool(await queues_without_pollers(client, (CONTROL_QUEUE,), "workflow"))
    except NO_ANSWER:
        return False


async def queue_warnings(client: Client, queues: Collection[str]) -> dict[str, str]:
    """Return a warning for each provisioner queue that no worker polls: queue -> `no_pollers:QUEUE`.

    The result is empty when Temporal does not answer within a second; `status` reports that elsewhere.
    """
    try:
        async with asyncio.timeout(WARNINGS_TIMEOUT_S):
            unserved = await queues_without_pollers(client, queues)
    except (TimeoutError, RPCError, RuntimeError):  # a client that has not connected yet fails by RuntimeError
        return {}
    return {queue: f"no_pollers:{queue}" for queue in sorted(unserved)}


async def _describe_queue(client: Client, queue: str, kind: Kind) -> DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=_TYPES[kind]
        )
    )


def _silence(poller: PollerInfo) -> timedelta:
    return datetime.now(UTC) - poller.last_access_time.ToDatetime(UTC)
