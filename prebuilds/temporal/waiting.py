"""Waits for work that only a control worker can complete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio.client import Client

from prebuilds.failures.temporal import no_control_worker
from prebuilds.temporal.queues import control_is_unserved

T = TypeVar("T")

FIRST_CHECK_S = 0.5
"""Seconds before the first check for a worker. Work that has already ended is returned before it, without a worker."""
CHECK_INTERVAL_S = 10.0
"""Seconds between further checks."""


async def while_served(client: Client, work: Awaitable[T], what: str) -> T:
    """Await *work* as long as a control worker runs that can complete it, and return its result.

    Args:
        what: Name of the work for the error message, such as `the loop to end`.
    Raises:
        StackUnreachable: No control worker runs. The request stays recorded, and a worker carries it out later.
    """
    task = asyncio.ensure_future(work)
    pause = FIRST_CHECK_S
    try:
        while not (await asyncio.wait({task}, timeout=pause))[0]:
            pause = CHECK_INTERVAL_S
            if await control_is_unserved(client) and not task.done():
                raise no_control_worker(f"no control worker is there for {what}, which is done once one runs")
        return task.result()
    finally:
        task.cancel()
