"""Our errors on their way through Temporal and through records in the database, and back.

An application error has the type's name, the text with the remedy in it, and two details: the error's own, and
`{"message", "remedy", "inputs"}`. Clients in other languages need only the first three. Where the second detail is
missing, as in what an earlier release has written, the text stands for the message.
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
    """*error* as it crosses Temporal.

    Args:
        repeated: Whether Temporal tries again what failed with it. None: as the error says.
    """
    again = error.repeated if repeated is None else repeated
    # A refusal is an outcome: benign ones are neither logged as errors nor counted as failures.
    category = ApplicationErrorCategory.UNSPECIFIED if again else ApplicationErrorCategory.BENIGN
    return ApplicationError(
        str(error), error.details, _advice(error), type=error.type, non_retryable=not again, category=category
    )


def error_of(cause: BaseException | None) -> PrebuildsError:
    """The typed error that a workflow's failure stands for; None stands for a workflow that has timed out."""
    if isinstance(cause, ApplicationError):
        details = [detail if isinstance(detail, Mapping) else {} for detail in (*cause.details, {}, {})]
        if cause.type in ERRORS:
            return _restored(cause.type, cause.message, details[0], details[1])
        message = f"the request has failed ({cause.type or 'an error without a type'}): {cause.message}"
        return RequestFailed(message, details[0])
    if isinstance(cause, CancelledError):
        return RequestCanceled("the request was cancelled before it was answered")
    if isinstance(cause, TerminatedError):
        return StackUnreachable("somebody has terminated the workflow that was to answer")
    if cause is None or isinstance(cause, WorkflowTimeout):
        return StackUnreachable("no worker has answered in time", remedy="see that `prebuilds worker` is running")
    return RequestFailed(f"the request has failed: {cause}")


def record_of(error: PrebuildsError) -> dict[str, Any]:
    """*error* as JSON that `from_record` reads."""
    return {"error": error.type, "details": error.details, **_advice(error)}


def from_record(record: Mapping[str, Any]) -> PrebuildsError | None:
    """The error that `record_of` has recorded; None for anything else, and for a type of another release."""
    if record.get("error") not in ERRORS:
        return None
    return _restored(record["error"], record.get("message", ""), record.get("details") or {}, record)


def _advice(error: PrebuildsError) -> dict[str, Any]:
    advice: dict[str, Any] = {"message": mask(error.message), "remedy": mask(error.general_remedy)}
    return advice | ({"inputs": error.inputs} if error.inputs else {})


def _restored(kind: str, text: str, details: Mapping[str, Any], advice: Mapping[str, Any]) -> PrebuildsError:
    if "remedy" not in advice:
        error = ERRORS[kind](text, details)
        error.says_default = False  # the text of an earlier release has it
        return error
    error = ERRORS[kind](advice.get("message", text), details, inputs=advice.get("inputs"))
    if advice["remedy"] != error.general_remedy:
        error.advice = advice["remedy"]
    return error
