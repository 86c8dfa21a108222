"""Converts our errors to Temporal's application errors and to database records, and back.

An application error has the name of the error's class, the text including the remedy, and two details: the error's own
details, and `{"message", "remedy", "inputs"}`. Clients in other languages need only the first three. If the second
detail is missing, as in errors written by an earlier release, the text is used as the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError, TerminatedError
from temporalio.exceptions import TimeoutError as WorkflowTimeout

from prebuilds.api import ERRORS, RequestCanceled, RequestFailed, StackUnreachable
from prebuilds.vocabulary.error import PrebuildsError
from prebuilds.vocabulary.passwords import mask


def application_error(error: PrebuildsError, *, repeated: bool | None = None) -> ApplicationError:
    """Convert *error* to the application error that carries it through Temporal.

    Args:
        repeated: True if Temporal retries the failed activity; None takes it from the error.
    """
    retried = error.repeated if repeated is None else repeated
    # A refusal is an expected outcome. Temporal neither logs a benign error nor counts it as a failure.
    category = ApplicationErrorCategory.UNSPECIFIED if retried else ApplicationErrorCategory.BENIGN
    advice = _advice_fields(error)
    return ApplicationError(
        str(error), error.details, advice, type=error.type, non_retryable=not retried, category=category
    )


def error_of(cause: BaseException | None) -> PrebuildsError:
    """Convert the cause of a workflow's failure to a typed error.

    Args:
        cause: None means that the workflow has timed out.
    """
    if isinstance(cause, ApplicationError):
        details = [detail if isinstance(detail, Mapping) else {} for detail in (*cause.details, {}, {})]
        if cause.type in ERRORS:
            return _rebuild_error(cause.type, cause.message, details[0], details[1])
        message = f"the request has failed ({cause.type or 'an error without a type'}): {cause.message}"
        return RequestFailed(message, details[0])
    if isinstance(cause, CancelledError):
        return RequestCanceled("the request was cancelled before it was answered")
    if isinstance(cause, TerminatedError):
        return StackUnreachable("somebody has terminated the workflow of this request")
    if cause is None or isinstance(cause, WorkflowTimeout):
        return StackUnreachable("no worker has answered in time", remedy="make sure that `prebuilds worker` is running")
    return RequestFailed(f"the request has failed: {cause}")


def record_of(error: PrebuildsError) -> dict[str, Any]:
    """Convert *error* to a JSON object that `from_record` reads."""
    return {"error": error.type, "details": error.details, **_advice_fields(error)}


def from_record(record: Mapping[str, Any]) -> PrebuildsError | None:
    """Rebuild the error from what `record_of` returned; None for any other record and for unknown error types."""
    if record.get("error") not in ERRORS:
        return None
    return _rebuild_error(record["error"], record.get("message", ""), record.get("details") or {}, record)


def _advice_fields(error: PrebuildsError) -> dict[str, Any]:
    advice: dict[str, Any] = {"message": mask(error.message), "remedy": mask(error.general_remedy)}
    return advice | ({"inputs": error.inputs} if error.inputs else {})


def _rebuild_error(kind: str, text: str, details: Mapping[str, Any], advice: Mapping[str, Any]) -> PrebuildsError:
    if "remedy" not in advice:
        error = ERRORS[kind](text, details)
        error.says_default = False  # an earlier release wrote the remedy into the text
        return error
    error = ERRORS[kind](advice.get("message", text), details, inputs=advice.get("inputs"))
    if advice["remedy"] != error.general_remedy:
        error.advice = advice["remedy"]
    return error
