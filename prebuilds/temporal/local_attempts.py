"""Attempts at local activities: how long one may still take, and when one that failed has begun and ended.

A local activity is tried once. Its workflow tries it again (`workflows/steps.py`), and has to know when it is too late
for that. A workflow's own clock may differ in a replay, so the worker writes the times into the failure, which is
recorded.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEGAN, FAILED = "began_at_seconds", "failed_at_seconds"
"""The fields of a failure's last detail: when its attempt began and failed, by its worker's clock, since 1970."""
UNBOUNDED = timedelta(days=1)


def time_left() -> timedelta:
    """How long the attempt under way may still take; a day for one without a timeout.

    Its caller reads it as the attempt begins. An attempt that is frozen after that keeps the end that it had.
    """
    info = activity.info()
    if info.start_to_close_timeout is None:
        return UNBOUNDED
    return info.started_time + info.start_to_close_timeout - datetime.now(UTC)


class TimedAttempts(Interceptor):
    """Notes in the failure of a local activity when its attempt began and failed. It stands outside of what converts
    errors."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the execution of activities."""
        return _TimedAttempts(next)


class _TimedAttempts(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if not activity.info().is_local:
            return await super().execute_activity(input)
        began = time.time()
        try:
            return await super().execute_activity(input)
        except ApplicationError as error:
            if error.non_retryable:
                raise
            # While the database is away, each attempt of each claim fails: one line of log is enough, and benign errors
            # get no traceback from the SDK.
            activity.logger.warning("An attempt has failed: %s", error.message)
            times = {BEGAN: began, FAILED: time.time()}
            benign = ApplicationErrorCategory.BENIGN
            raise ApplicationError(error.message, *error.details, times, type=error.type, category=benign) from error
