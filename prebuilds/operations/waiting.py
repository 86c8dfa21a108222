"""Waiting for what only a control worker can end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio.client import Client

from prebuilds.failures.temporal import no_control_worker
from prebuilds.temporal.queues import control_is_unserved

T = TypeVar("T")

FIRST_CHECK_S = 0.5
"""What has ended already is answered before this, also without a worker."""
CHECK_INTERVAL_S = 10.0


async def while_served(client: Client, work: Awaitable[T], what: str) -> T:
    """The result of *work*, awaited as long as a control worker is there to bring it about.

    Args:
        what: What is waited for, for the message: `the loop to end`.
    Raises:
        StackUnreachable: No control worker is there, or none any more. What was asked for stays asked for.
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
