"""Passes our errors out of activities with their own types, and marks those that Temporal must not retry."""

from __future__ import annotations

from typing import Any

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from prebuilds.api import PrebuildsError


def application_error(error: PrebuildsError) -> ApplicationError:
    # A refusal is an outcome: benign ones are neither logged as errors nor counted as failures.
    category = ApplicationErrorCategory.UNSPECIFIED if error.repeated else ApplicationErrorCategory.BENIGN
    return ApplicationError(
        str(error), error.details, type=error.type, non_retryable=not error.repeated, category=category
    )


class TypedErrors(Interceptor):
    """Turns a `PrebuildsError` into an `ApplicationError` of the same type, in one place for every activity."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the execution of activities."""
        return _TypedErrors(next)


class _TypedErrors(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except PrebuildsError as error:
            raise application_error(error) from error
