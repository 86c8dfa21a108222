"""Passes our errors out of activities with their own types, and marks those that Temporal must not retry."""

from __future__ import annotations

from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from prebuilds.api import DiskFull, PrebuildsError, StackUnreachable, SystemFault
from prebuilds.failures import as_typed
from prebuilds.failures.crossing import application_error

OF_THE_STACK = (DiskFull, StackUnreachable, SystemFault)


class TypedErrors(Interceptor):
    """Turns a `PrebuildsError` into an `ApplicationError` of the same type, in one place for every activity.

    What says that the database, Temporal or the worker's machine is at fault goes by our type, too. Temporal repeats it
    like any other error that an activity does not foresee.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the execution of activities."""
        return _TypedErrors(next)


class _TypedErrors(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except PrebuildsError as error:
            raise application_error(error) from error
        except Exception as error:
            found = as_typed(error)
            if not isinstance(found, OF_THE_STACK):
                raise
            raise application_error(found, repeated=True) from error
