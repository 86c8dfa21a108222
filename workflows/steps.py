"""Steps that a cancellation of the workflow does not interrupt, since a transaction that has committed counts."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(step: asyncio.Task[T]) -> tuple[T, bool]:
    """Wait for a started activity to end, also when the workflow is cancelled.

    Returns:
        The activity's result, and whether the workflow was cancelled meanwhile.
    """
    try:
        return await asyncio.shield(step), False
    except asyncio.CancelledError:
        return await step, True
