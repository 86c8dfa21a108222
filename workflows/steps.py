"""Local activities: how each is bounded, and how one is not interrupted by a cancellation of its workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from prebuilds.temporal.local_attempts import BEGAN, FAILED
    from workflows.refusal import cause_of

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
"""The pause after the first failed attempt; each further one is three times as long. Each costs Temporal six events."""
LAST_ATTEMPT_S = 1.0
"""The least time that an attempt gets."""
ONCE = RetryPolicy(maximum_attempts=1)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a local activity may take, in seconds."""

    attempt_s: float
    """One attempt; the last ones have less when less is left."""
    total_s: float
    """All attempts with the pauses between them. The very last attempt may end LAST_ATTEMPT_S later."""
    pause_s: float = 3.0
    """The longest pause."""


async def run_step(activity: Callable[..., Awaitable[T]], *args: Any, bounds: Bounds) -> T:
    """Run a local activity, and try it again while its failure may heal. Every local activity is run by this function.

    The workflow itself tries again, after a timer. The SDK would forget `schedule_to_close_timeout` when that falls
    into a pause of its own between two attempts, and would begin all over again with each workflow task that is lost.
    What succeeds at once costs no event for this.

    Raises:
        FailureError: The failure of the last attempt.
    """
    spent_s, pause_s, began_at = 0.0, FIRST_PAUSE_S, None
    while True:
        timeout_s = min(bounds.attempt_s, max(bounds.total_s - spent_s, LAST_ATTEMPT_S))
        try:
            return await workflow.execute_local_activity_method(
                activity, args=args, start_to_close_timeout=timedelta(seconds=timeout_s), retry_policy=ONCE
            )
        except FailureError as error:
            cause = cause_of(error)
            if isinstance(cause, ApplicationError) and not cause.non_retryable:
                times = _times_of(cause)
                if times is not None:
                    began_at = began_at or times[0] - spent_s
                    # The clock of the worker counts also what this count leaves out: tasks that Temporal was late with.
                    spent_s = max(spent_s + times[1] - times[0], times[1] - began_at)
            elif isinstance(cause, TimeoutError):
                spent_s += timeout_s
            else:
                raise
            if spent_s >= bounds.total_s:
                raise
        pause_s = min(pause_s, bounds.pause_s, bounds.total_s - spent_s)
        await workflow.sleep(pause_s, summary="until the next attempt")
        spent_s += pause_s
        pause_s *= 3


def _times_of(failure: ApplicationError) -> tuple[float, float] | None:
    """When the attempt began and failed, in seconds since 1970; None when the failure does not say so."""
    last = failure.details[-1] if failure.details else None
    if not isinstance(last, Mapping) or BEGAN not in last or FAILED not in last:
        return None
    return float(last[BEGAN]), float(last[FAILED])


async def to_its_end(step: asyncio.Task[T]) -> tuple[T, bool]:
    """Wait for a step to end, also when the workflow is cancelled. A transaction that has committed counts.

    Returns:
        The step's result, and whether the workflow was cancelled meanwhile.
    """
    try:
        return await asyncio.shield(step), False
    except asyncio.CancelledError:
        return await step, True
