"""The floor that a claim is measured against: a workflow that does nothing, served as a claim is served.

python -m prebuilds.bench.noop QUEUE
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
    @workflow.run
    async def run(self, raw: Any = None) -> str:
        return "done"


def noop_worker(client: Client, queue: str) -> Worker:
    return worker_on(
        client,
        queue,
        workflows=[Noop],
        max_concurrent_workflow_tasks=CLAIM_SLOTS,
        max_cached_workflows=CLAIM_SLOTS * 2,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=CLAIM_POLLERS),
    )


async def noop(client: Client, queue: str, id: str, *, eager: bool = False) -> None:
    handle = await start_short(client, "BenchNoop", None, id=id, task_queue=queue, eager=eager)
    await handle.result()


@asynccontextmanager
async def noop_process(address: str | None, queue: str) -> AsyncIterator[None]:
    """A worker of no-ops in a process of its own, as claims have one; it ends with the block. Main thread only.

    Args:
        address: Temporal's; None for the environment's.
    """
    child = await asyncio.create_subprocess_exec(
        *dying_with_parent([sys.executable, "-m", "prebuilds.bench.noop", queue], "KILL"),
        env=os.environ | ({"TEMPORAL_ADDRESS": address} if address else {}),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None  # noqa: S101 - it was asked for
        if await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT_S) != READY:
            raise RuntimeError("the worker of no-ops has not started")
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
