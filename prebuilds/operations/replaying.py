"""Long computations of requests, one at a time in each process, with a bound on how many wait.

A computation is Python's own work, and so takes the CPU from everything else in its process. It cannot be ended either
once it has begun: its caller may go away, and its turn lasts until it is done.
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
"""Computations that are under way or wait. The last of them waits for about a quarter of a minute."""
RETRY_AFTER_S = 10

# Threads, not tasks: a process may have several event loops.
_one_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replay")
_places = threading.BoundedSemaphore(AT_ONCE_MAX)


async def in_turn(function: Callable[..., T], *args: Any) -> T:
    """Call a function in the process's one thread for long computations.

    Raises:
        RateLimited: `AT_ONCE_MAX` of them are under way or wait.
    """
    _take_place()
    future = _one_thread.submit(function, *args)
    future.add_done_callback(_leave)
    return await asyncio.wrap_future(future)  # a caller that goes away before its turn gives up its place


def check_room() -> None:
    """Look whether a place is free, before what a computation needs is read from the database.

    Raises:
        RateLimited: None is.
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
