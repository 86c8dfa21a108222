"""Runs long computations for requests, one at a time in each process, with a bound on how many wait.

A computation is pure Python, so it slows everything else in its process. Once begun, it cannot be stopped, even if its
caller goes away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from prebuilds.api import RateLimited

T = TypeVar("T")

AT_ONCE_MAX = 8
"""Maximum number of running and waiting computations. The last one waits for about a quarter of a minute."""
RETRY_AFTER_S = 10

# Threads, not tasks: a process may have several event loops.
_one_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replay")
_places = threading.BoundedSemaphore(AT_ONCE_MAX)


async def in_turn(function: Callable[..., T], *args: Any) -> T:
    """Call a function in the process's only thread for long computations.

    Raises:
        RateLimited: `AT_ONCE_MAX` computations run or wait.
    """
    _take_place()
    future = _one_thread.submit(function, *args)
    future.add_done_callback(_leave)
    return await asyncio.wrap_future(future)  # a caller that goes away before its turn gives up its place


def check_room() -> None:
    """Check that a place is free, before the input of a computation is read from the database.

    Raises:
        RateLimited: No place is free.
    """
    _take_place()
    _places.release()


def _take_place() -> None:
    if not _places.acquire(blocking=False):
        raise RateLimited(
            f"{AT_ONCE_MAX} questions of this kind wait for their answer",
            {"limit": "replays", "retry_after_seconds": RETRY_AFTER_S},
            remedy=f"ask again in {RETRY_AFTER_S} s",
        )


def _leave(_: Future[Any]) -> None:
    _places.release()
