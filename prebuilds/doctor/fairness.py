"""Tests whether the cluster shares a task queue fairly between fairness keys. No API reports it, so a trial is needed.

The trial starts many workflows with the same key (the crowd), then as many with one key each (the others), on a queue
with a random name that nobody polls. A fair cluster dispatches one workflow of the crowd and then the others; an unfair
one dispatches them in the order of their starts. Only a few tasks are polled, so that the trial also works on a queue
with several partitions: each partition has its own order, and an unfair one must not reach the end of its crowd.
Measured: among 12 dispatched tasks, the others' were 0 (unfair) or 11 (fair) on one partition, 0 to 3 or 7 to 11 on
four, and 0 to 4 or 8 to 12 on eight, in 100, 100 and 50 trials each. With sixteen partitions the figures begin to
overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, PollWorkflowTaskQueueRequest
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError, RPCStatusCode

CROWD = OTHERS = 32
TASKS_POLLED = 12
POLLS_AT_ONCE = 4
OTHERS_IF_FAIR_MIN = 6
"""Minimum number of the others' tasks among the polled ones on a fair cluster; between the measured figures."""
SETTLE_S = (0.25, 0.75)
"""Seconds for started workflows to reach their queue, per trial. Late tasks look like unfairness, so an unfair result
is tried a second time."""
POLL_TIMEOUT = timedelta(seconds=2.5)
"""The server refuses polls shorter than 2 s, and returns an empty answer one second before the timeout."""
EXECUTION_TIMEOUT = timedelta(seconds=30)
"""Ends the trial's workflows that could not be deleted."""
TRY_TIMEOUT_S = 6.0
REMOVE_TIMEOUT_S = 1.5
TIMEOUT_S = TRY_TIMEOUT_S + REMOVE_TIMEOUT_S
"""Maximum duration of the whole test, whatever Temporal does."""
WORKFLOW_TYPE = "PrebuildsFairnessTrial"


@dataclass(frozen=True, slots=True)
class Fairness:
    """The result of the test."""

    fair: bool
    clock: tuple[datetime, datetime, datetime]
    """Clock readings around one poll: ours before it, the server's at the dispatch, ours after it."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A dispatched task: of the crowd or of the others, with clock readings as in `Fairness`."""

    crowd: bool
    clock: tuple[datetime, datetime, datetime]


async def try_fairness(client: Client) -> Fairness:
    """Test the cluster's fairness. Takes one second on a fair cluster, three on an unfair one; leaves no workflow.

    Raises:
        RPCError: Temporal does not answer, or refuses.
        TimeoutError: Temporal is too slow for a result.
    """
    async with asyncio.timeout(TRY_TIMEOUT_S):
        for settle_s in SETTLE_S:
            tasks = await _run_trial(client, settle_s)
            if sum(not task.crowd for task in tasks) >= OTHERS_IF_FAIR_MIN:
                return Fairness(True, tasks[0].clock)
    if len(tasks) < TASKS_POLLED:
        raise TimeoutError
    return Fairness(False, tasks[0].clock)


async def _run_trial(client: Client, settle_s: float) -> list[_Task]:
    """Run one trial. Returns the first dispatched tasks, roughly in order; fewer than polled if the server is slow."""
    queue = f"prebuilds-doctor-{uuid4().hex[:12]}"
    crowd = {f"{queue}/crowd/{n}": "crowd" for n in range(CROWD)}
    others = {f"{queue}/others/{n}": f"other-{n}" for n in range(OTHERS)}
    try:
        for keys in (crowd, others):
            await asyncio.gather(*[_start(client, queue, id, key) for id, key in keys.items()])
            await asyncio.sleep(settle_s)
        remaining = iter(range(TASKS_POLLED))  # shared, so that all pollers together poll this often

        async def poll_in_turn() -> list[_Task | None]:
            return [await _poll(client, queue, crowd) for _ in remaining]

        polled = await asyncio.gather(*[poll_in_turn() for _ in range(POLLS_AT_ONCE)])
        return [task for tasks in polled for task in tasks if task is not None]
    finally:
        await _remove(client, [*crowd, *others])


async def _start(client: Client, queue: str, id: str, key: str) -> None:
    await client.start_workflow(
        WORKFLOW_TYPE,
        id=id,
        task_queue=queue,
        execution_timeout=EXECUTION_TIMEOUT,
        priority=Priority(fairness_key=key),
    )


async def _poll(client: Client, queue: str, crowd: Collection[str]) -> _Task | None:
    before = datetime.now(UTC)
    answer = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), identity="prebuilds doctor"
        ),
        timeout=POLL_TIMEOUT,
    )
    if not answer.task_token:
        return None
    started = answer.started_time.ToDatetime(UTC)
    return _Task(answer.workflow_execution.workflow_id in crowd, (before, started, datetime.now(UTC)))


async def _remove(client: Client, ids: Sequence[str]) -> None:
    async def remove(id: str) -> None:
        try:
            await client.workflow_service.delete_workflow_execution(  # it also terminates a running workflow
                DeleteWorkflowExecutionRequest(
                    namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=id)
                )
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # deleting is not allowed: terminate it at least
                await client.get_workflow_handle(id).terminate("the trial is over")

    removed = asyncio.gather(*[remove(id) for id in ids], return_exceptions=True)
    await asyncio.wait([removed], timeout=REMOVE_TIMEOUT_S)
    removed.cancel()
