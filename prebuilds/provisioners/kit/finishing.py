"""What is to be done whole, also when its caller is cancelled: the caller's lock must not be given up before it.

A thread, and a call that an engine has taken up, go on when nobody waits for them; what comes after would look too
soon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Do *work* whole, whoever cancels meanwhile; the cancellation is raised after it. *work* must be bounded."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S110 - raised below, by the task's own result
            pass
    if cancelled is not None:
        with contextlib.suppress(Exception):
            task.result()
        raise cancelled
    return task.result()
