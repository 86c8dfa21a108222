"""The floor of a claim's measurement: a workflow that does nothing, with a worker like the one for claims.

`python -m prebuilds.bench.noop QUEUE` runs such a worker.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from prebuilds.embedded import CLAIM_POLLERS, CLAIM_SLOTS
from prebuilds.stack.child import dying_with_parent
from prebuilds.temporal.connecting import connect, start_short
from prebuilds.temporal.workers import settle_heap, worker_on

START_TIMEOUT_S = 30.0
READY = b"serving\n"


@workflow.defn(name="BenchNoop")
class Noop:
    """Does nothing and ends."""

    @workflow.run
    async def run(self, raw: Any = None) -> str:
        """Return at once."""
        return "done"


def noop_worker(client: Client, queue: str) -> Worker:
    """Return a worker for no-ops with the settings of a claims worker."""
    return worker_on(
        client,
        queue,
        workflows=[Noop],
        max_concurrent_workflow_tasks=CLAIM_SLOTS,
        max_cached_workflows=CLAIM_SLOTS * 2,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=CLAIM_POLLERS),
    )


async def noop(client: Client, queue: str, id: str, *, eager: bool = False) -> None:
    """Run one no-op and wait for its end."""
    handle = await start_short(client, "BenchNoop", None, id=id, task_queue=queue, eager=eager)
    await handle.result()


@asynccontextmanager
async def noop_process(address: str | None, queue: str) -> AsyncIterator[None]:
    """Run a worker for no-ops in a process of its own until the block ends. Only the main thread can use it.

    Args:
        address: Temporal's address; None for the environment's.
    Raises:
        RuntimeError: The worker has not started.
        TimeoutError: It has not said anything for half a minute.
    """
    child = await asyncio.create_subprocess_exec(
        *dying_with_parent([sys.executable, "-m", "prebuilds.bench.noop", queue], "KILL"),
        env=os.environ | ({"TEMPORAL_ADDRESS": address} if address else {}),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        if await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT_S) != READY:
            raise RuntimeError("the worker for no-ops has not started; its own output says why")
        yield
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def _serve(queue: str) -> None:
    client = await connect()
    settle_heap()
    async with noop_worker(client, queue):
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
