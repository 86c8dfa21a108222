"""The floor that a claim is measured against: a workflow that does nothing, served as a claim is served."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from prebuilds.client import connect

QUEUE = "bench-noop"


@workflow.defn(name="BenchNoop")
class Noop:
    @workflow.run
    async def run(self, raw: Any = None) -> str:
        return "done"


async def main() -> None:
    client = await connect(os.environ["TEMPORAL_ADDRESS"])
    await Worker(
        client,
        task_queue=QUEUE,
        workflows=[Noop],
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=10),
    ).run()


if __name__ == "__main__":
    asyncio.run(main())
