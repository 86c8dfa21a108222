"""OperatorRequest: one operation, such as status, stop or release, for services that have no access to the database.

It ends with the operation's result, or with the refusal. It keeps true that an operation takes effect at most once.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.operator import OperatorActivities
    from prebuilds.api import InvalidInput, RequestCanceled, StoreUnavailable
    from prebuilds.payloads import RequestRun
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused
    from workflows.steps import to_its_end

# Together with END this takes less than 60 s. A caller gives up after 60 s, and so gets the true reason before.
OPERATE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=40),
    schedule_to_close_timeout=timedelta(seconds=45),
    heartbeat_timeout=timedelta(seconds=2),  # a killed worker delays the caller by 2 s, not by 40 s
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)
LIFE = timedelta(seconds=30)
"""Attempts take effect only within this time. It is shorter than OPERATE's timeout, after which the caller is told that
nothing was done; the difference allows for clock skew."""
ASK_AGAIN = "see that `prebuilds worker --role control` runs, then ask again"
END = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=5),
    schedule_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
)


@workflow.defn
class OperatorRequest:
    """One request of an operator or a service."""

    @workflow.run
    async def run(self, *raw: Any) -> Any:
        """Carry out the request, and return the action's result.

        Raises:
            ApplicationError: The action's refusal; or `StoreUnavailable`: no worker has carried it out in time.
        """
        began_at = workflow.now()
        run = RequestRun(id=workflow.info().run_id, began_at=began_at, expires_at=began_at + LIFE)
        try:
            return await self._operate(only_input(raw), run)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None

    async def _operate(self, raw: Any, run: RequestRun) -> Any:
        try:
            return await workflow.execute_activity_method(OperatorActivities.operate, args=[raw, run], **OPERATE)
        except (FailureError, asyncio.CancelledError) as error:
            cause = cause_of(error) if isinstance(error, FailureError) else error
            if isinstance(cause, ApplicationError) and cause.non_retryable:
                raise  # a refusal, which is recorded as the answer
        # An attempt may still be under way. If it has taken effect, its answer counts; if not, it never will.
        try:
            ending = workflow.start_activity_method(OperatorActivities.end_request, run, **END)
            return (await to_its_end(ending))[0]
        except FailureError as error:
            cause = cause_of(error)
            if isinstance(cause, ApplicationError) and cause.type == RequestCanceled.__name__:
                if workflow.cancellation_reason() is not None:
                    raise asyncio.CancelledError from None
                late = "no worker has carried the request out in time, and none will"
                raise refused(StoreUnavailable(late, remedy=ASK_AGAIN)) from None
            raise
