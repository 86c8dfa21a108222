"""How a short workflow fails: as one application error with our type, not wrapped in the activity that raised it."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from prebuilds.api import PrebuildsError, StoreUnavailable


def refused(error: PrebuildsError | ActivityError) -> ApplicationError:
    """The error to raise from `run`. What is no refusal of ours could not reach the database in time."""
    if isinstance(error, PrebuildsError):
        return ApplicationError(str(error), error.details, type=error.type, non_retryable=True)
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type:
        return ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True)
    return ApplicationError(
        "the database did not answer in time; try again with the same id",
        type=StoreUnavailable.__name__,
        non_retryable=True,
    )
