"""Heartbeats beside a long call: a worker that dies is noticed, and a cancellation arrives, within two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio import activity

HEARTBEAT_INTERVAL_S = 0.5
"""A quarter of the timeout: two may be lost on the way."""


@asynccontextmanager
async def heartbeating(*details: Any) -> AsyncIterator[None]:
    """Heartbeat until the block ends.

    Args:
        details: What a next attempt finds in its `activity.info().heartbeat_details`.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)  # first: a short build or pass is over by then, and spares a call
            activity.heartbeat(*details)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
