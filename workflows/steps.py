"""A step that a cancellation does not cut: its transaction may have committed, and then it counts."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(step: asyncio.Task[T]) -> tuple[T, bool]:
    """Await an activity that was started, to its end.

    Returns:
        Its result, and whether the workflow was cancelled meanwhile.
    """
    try:
        return await asyncio.shield(step), False
    except asyncio.CancelledError:
        return await step, True
