"""Whether the cluster shares a task queue fairly between fairness keys. No API tells, so it is tried out.

On a queue of a random name that nobody polls, many workflows with one key are started and then as many with a key each.
A fair cluster hands out one of the first and then the others; an unfair one hands them out in the order they came.
Only a few are asked for, so that this holds on a queue of several partitions, too: each keeps an order of its own, and
an unfair one must not come to the end of its crowd. Of the 12 handed out, others were 0 (unfair) or 11 (fair) on one
partition, 0 to 3 or 7 to 11 on four, 0 to 4 or 8 to 12 on eight, measured 100, 100 and 50 times each; with sixteen
these figures begin to overlap.
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
TASKS_ASKED_FOR = 12
POLLS_AT_ONCE = 4
OTHERS_IF_FAIR_MIN = 6
SETTLE_S = (0.25, 0.75)
"""For what was started to arrive in its queue. Late tasks look like unfairness, so that answer is tried twice."""
POLL_TIMEOUT = timedelta(seconds=2.5)
"""The server refuses polls of less than 2 s, and answers with nothing a second before the end."""
EXECUTION_TIMEOUT = timedelta(seconds=30)
"""What cannot be removed ends by itself."""
TRY_TIMEOUT_S = 6.0
REMOVE_TIMEOUT_S = 1.5
TIMEOUT_S = TRY_TIMEOUT_S + REMOVE_TIMEOUT_S
"""After this it has ended, whatever Temporal does."""
WORKFLOW_TYPE = "PrebuildsFairnessTrial"


@dataclass(frozen=True, slots=True)
class Fairness:
    fair: bool
    clock: tuple[datetime, datetime, datetime]
    """Of one task handed out: our clock before we asked, the server's when it answered, ours after."""


@dataclass(frozen=True, slots=True)
class _Task:
    crowd: bool
    clock: tuple[datetime, datetime, datetime]


async def try_fairness(client: Client) -> Fairness:
    """Try it; takes a second where the cluster is fair, three where it is not. Leaves no workflow behind.

    Raises:
        RPCError: Temporal does not answer, or refuses.
        TimeoutError: It is too slow to tell.
    """
    async with asyncio.timeout(TRY_TIMEOUT_S):
        for settle_s in SETTLE_S:
            tasks = await _trial(client, settle_s)
            if sum(not task.crowd for task in tasks) >= OTHERS_IF_FAIR_MIN:
                return Fairness(True, tasks[0].clock)
    if len(tasks) < TASKS_ASKED_FOR:
        raise TimeoutError
    return Fairness(False, tasks[0].clock)


async def _trial(client: Client, settle_s: float) -> list[_Task]:
    """The first tasks that were handed out, in about their order; fewer than asked for when the server was slow."""
    queue = f"prebuilds-doctor-{uuid4().hex[:12]}"
    crowd = {f"{queue}/crowd/{n}": "crowd" for n in range(CROWD)}
    others = {f"{queue}/others/{n}": f"other-{n}" for n in range(OTHERS)}
    try:
        for keys in (crowd, others):
            await asyncio.gather(*[_start(client, queue, id, key) for id, key in keys.items()])
            await asyncio.sleep(settle_s)
        left = iter(range(TASKS_ASKED_FOR))

        async def poll_in_turn() -> list[_Task | None]:
            return [await _poll(client, queue, crowd) for _ in left]

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
            await client.workflow_service.delete_workflow_execution(  # which ends it, too
                DeleteWorkflowExecutionRequest(
                    namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=id)
                )
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not allowed to delete: end it at least
                await client.get_workflow_handle(id).terminate("the trial is over")

    removed = asyncio.gather(*[remove(id) for id in ids], return_exceptions=True)
    await asyncio.wait([removed], timeout=REMOVE_TIMEOUT_S)
    removed.cancel()
