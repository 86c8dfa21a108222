"""Heartbeats during a long call: the server notices a dead worker, and the call a cancellation, within two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio import activity

HEARTBEAT_INTERVAL_S = 0.5
"""Seconds between heartbeats: a quarter of the timeout, so that two may be lost on the way."""


@asynccontextmanager
async def heartbeating(*details: Any) -> AsyncIterator[None]:
    """Heartbeat until the block ends.

    Args:
        details: Facts for the next attempt, which finds them in its `activity.info().heartbeat_details`.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)  # before the first one, which saves a call of a short block
            activity.heartbeat(*details)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
