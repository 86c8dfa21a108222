"""How a short workflow fails: as one application error with our type, not wrapped in the activity that raised it."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, ChildWorkflowError, FailureError

with workflow.unsafe.imports_passed_through():
    from prebuilds.api import PrebuildsError, StoreUnavailable
    from prebuilds.failures.crossing import application_error, error_of


def cause_of(error: FailureError) -> BaseException:
    """What an activity or child failed with. A local activity's failure arrives bare, the others' in a wrapper."""
    wrapped = isinstance(error, ActivityError | ChildWorkflowError)
    return error.cause if wrapped and error.cause is not None else error


def refused(error: PrebuildsError | FailureError) -> FailureError:
    """The error to raise from `run`. What is no refusal of ours, and was not cancelled, could not reach the database in
    time."""
    if isinstance(error, PrebuildsError):
        return application_error(error, repeated=False)
    cause = cause_of(error)
    if isinstance(cause, CancelledError):
        return cause  # so that the workflow ends as cancelled, too
    if isinstance(cause, ApplicationError) and cause.type:
        return ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True)
    return refused(StoreUnavailable("the database did not answer in time"))


def refused_claim(error: PrebuildsError | FailureError, claim_id: str) -> FailureError:
    """The same for a claim. Without the database nobody knows whether it was won: it says so, and how to find out."""
    failure = refused(error)
    if not isinstance(failure, ApplicationError) or failure.type != StoreUnavailable.__name__:
        return failure
    away = error_of(failure)
    message = f"claim {claim_id}: whether it has won a workspace is not known, since {away.message}"
    return refused(StoreUnavailable(message, {"claim_id": claim_id}, remedy=away.advice))
