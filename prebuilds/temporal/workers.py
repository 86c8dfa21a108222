"""Temporal workers as every process of ours runs them."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from prebuilds.temporal.typed_errors import TypedErrors

GRACE = timedelta(seconds=10)
STICKY_TIMEOUT = timedelta(seconds=1)
"""After a worker's death its cached workflows wait this long for it, not the usual 10 s."""


def settle_heap() -> None:
    """Take what is loaded out of the garbage collector's sight: it stays for good, and a full collection that walks it
    holds every claim for a tenth of a second. Call once, when the process has what it works with."""
    gc.collect()
    gc.freeze()


def worker_on(client: Client, queue: str, **options: Any) -> Worker:
    """A worker with our settings; *options* are the SDK's own."""
    return Worker(
        client,
        task_queue=queue,
        interceptors=[TypedErrors()],
        # The workflow tests run all of them in the sandbox; here it would cost a claim 7 to 10 ms and buy nothing.
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        graceful_shutdown_timeout=GRACE,
        **options,
    )
