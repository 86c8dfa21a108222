"""Work that must be completed even when its caller is cancelled, because the caller holds a lock for it.

A thread, and a call that an engine has accepted, continue when nobody waits for them. Without this, the next holder of
the lock would see the work half done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Complete *work*, and return its result. A cancellation meanwhile is raised after it. *work* must be bounded."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S110 - `task.result()` raises it below
            pass
    if cancelled is not None:
        with contextlib.suppress(Exception):
            task.result()
        raise cancelled
    return task.result()
