"""How short workflows fail: with one application error of our type, not wrapped in the activity's error."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, ChildWorkflowError, FailureError

with workflow.unsafe.imports_passed_through():
    from prebuilds.api import PrebuildsError, StoreUnavailable
    from prebuilds.failures.crossing import application_error, error_of


def cause_of(error: FailureError) -> BaseException:
    """Return the failure inside an activity's or a child's error. A local activity's failure has no wrapper."""
    wrapped = isinstance(error, ActivityError | ChildWorkflowError)
    return error.cause if wrapped and error.cause is not None else error


def refused(error: PrebuildsError | FailureError) -> FailureError:
    """Return the error to raise from `run`.

    An application error keeps its type, and a cancellation stays one. A timeout becomes `StoreUnavailable`: the
    activity could not reach the database in time.
    """
    if isinstance(error, PrebuildsError):
        return application_error(error, repeated=False)
    cause = cause_of(error)
    if isinstance(cause, CancelledError):
        return cause  # the workflow, too, ends as cancelled
    if isinstance(cause, ApplicationError) and cause.type:
        return ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True)
    return refused(StoreUnavailable("the database did not answer in time"))


def refused_claim(error: PrebuildsError | FailureError, claim_id: str) -> FailureError:
    """Return the error to raise from `run` of a claim.

    When the database was not reached, it is not known whether the claim has won; the message says so, and the remedy
    that the caller can find out by the same id. The id is in the details only: the client puts it before each message.
    """
    failure = refused(error)
    if not isinstance(failure, ApplicationError) or failure.type != StoreUnavailable.__name__:
        return failure
    away = error_of(failure)
    message = f"whether the claim has won a workspace is not known, since {away.message}"
    return refused(StoreUnavailable(message, {"claim_id": claim_id}, remedy=away.advice))
