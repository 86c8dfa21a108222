"""Which task queues nobody serves, and which were served lately."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Literal

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.temporal.connecting import described
from prebuilds.vocabulary import CONTROL_QUEUE, ORCHESTRATOR_ID

ASKED_AT_ONCE = 10
WARNINGS_TIMEOUT_S = 1.0
"""For all queues together: `status` must not wait for a Temporal that is away."""
SILENT_AFTER = timedelta(seconds=90)
"""A living worker polls again within 60 s, and its workflow tasks are too short to keep it from that."""

Kind = Literal["activity", "workflow"]
_TYPES = {
    "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    "workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
}


async def queues_without_pollers(client: Client, queues: Collection[str], kind: Kind = "activity") -> set[str]:
    """Those of *queues* that no worker polls. A provisioner queue is served when its plain name has a poller.

    Waits for Temporal as long as it takes: the caller sets the limit.

    The server remembers a poller for five minutes. Of a workflow queue one that fell silent counts as gone before
    that; of an activity queue it does not, as its worker may have all slots taken by long builds.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    at_once = asyncio.Semaphore(ASKED_AT_ONCE)

    async def is_served(queue: str) -> bool:
        async with at_once:
            described = await _describe(client, queue, kind)
        return any(kind == "activity" or _silence(poller) <= SILENT_AFTER for poller in described.pollers)

    names = sorted(set(queues))
    served = await asyncio.gather(*[is_served(name) for name in names])
    return {name for name, yes in zip(names, served, strict=True) if not yes}


async def polled_within(client: Client, queues: Collection[str], within: timedelta) -> bool:
    """Whether a worker has asked one of these activity queues for work in this time. One whose slots are all taken asks
    for none; one that has a slot asks at least once a minute.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    described = await asyncio.gather(*[_describe(client, queue, "activity") for queue in queues])
    return any(_silence(poller) <= within for answer in described for poller in answer.pollers)


async def loop_is_unserved(client: Client) -> bool:
    """Whether the loop's workflow runs and no control worker is there to go on with it; False when Temporal does not
    tell."""
    try:
        if not await queues_without_pollers(client, (CONTROL_QUEUE,), "workflow"):
            return False
        found = await described(client, ORCHESTRATOR_ID)
    except (RPCError, RuntimeError, ValueError):  # the last two: a client that cannot connect
        return False
    return found is not None and found.status is WorkflowExecutionStatus.RUNNING


async def queue_warnings(client: Client, queues: Collection[str]) -> dict[str, str]:
    """A warning for each provisioner queue that nobody serves: queue -> `no_pollers:QUEUE`.

    Empty when Temporal does not answer within a second: `status` says that elsewhere.
    """
    try:
        async with asyncio.timeout(WARNINGS_TIMEOUT_S):
            unserved = await queues_without_pollers(client, queues)
    except (TimeoutError, RPCError, RuntimeError):  # a client that has not connected yet fails by RuntimeError
        return {}
    return {queue: f"no_pollers:{queue}" for queue in sorted(unserved)}


async def _describe(client: Client, queue: str, kind: Kind) -> DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=_TYPES[kind]
        )
    )


def _silence(poller: PollerInfo) -> timedelta:
    return datetime.now(UTC) - poller.last_access_time.ToDatetime(UTC)
