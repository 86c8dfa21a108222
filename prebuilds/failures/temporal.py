"""What Temporal's client and gRPC raise: a server that is away or refuses, a workflow that has failed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.client import (
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput, OrchestratorNotRunning, StackUnreachable
from prebuilds.failures.crossing import error_of
from prebuilds.vocabulary.error import PrebuildsError

START_TEMPORAL = "start `prebuilds dev`, or set TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE to a running server's"
SEND_CREDENTIALS = "set TEMPORAL_API_KEY or TEMPORAL_TLS_* to credentials that may do this in the namespace"
INNERMOST = re.compile(r'(?:message|error): "([^"]+)"')
"""Where the SDK's core says why a first connection has failed: the last one in its text."""

RAISED = (
    RPCError,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    RuntimeError,  # a client that connects at its first use, and cannot
    ValueError,  # the same with an address that is none
)
"""What a call to Temporal may raise; of the last two only what `is_failed_connect` tells."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """The typed error that a call to Temporal stands for; None for anything else, which is a bug."""
    match error:
        case RPCError():
            return unanswered(error)
        case WorkflowFailureError() | WorkflowUpdateFailedError():
            return error_of(error.cause)
        case WorkflowUpdateRPCTimeoutOrCancelledError() if not isinstance(error.__cause__, asyncio.CancelledError):
            return StackUnreachable("Temporal has not answered in time", remedy=START_TEMPORAL)
        case RuntimeError() | ValueError() if is_failed_connect(error):
            return unreached("Temporal", error)
        case _:
            return None


@contextmanager
def asking_temporal() -> Iterator[None]:
    """Raise the typed error in place of what a call to Temporal raises.

    Raises:
        InvalidInput: Temporal does not take the request.
        StackUnreachable: Temporal does not answer.
        PrebuildsError: A workflow has failed with it.
    """
    try:
        yield
    except RAISED as error:
        if (found := as_typed(error)) is None:
            raise
        raise found from error


@contextmanager
def asking_loop() -> Iterator[None]:
    """The same for a call to the reconciliation loop.

    Raises:
        OrchestratorNotRunning: The loop is not there.
        StackUnreachable: Also when no control worker is there to answer for the loop.
    """
    with asking_temporal():
        try:
            yield
        except RPCError as error:
            if no_such_workflow(error):
                raise OrchestratorNotRunning("the reconciliation loop is not running") from error
            if error.status is RPCStatusCode.FAILED_PRECONDITION:  # the server gives up after half a minute
                raise no_control_worker() from error
            raise


def no_control_worker(message: str = "no control worker has taken up the request") -> StackUnreachable:
    """The error of a loop for which nobody answers."""
    return StackUnreachable(message, remedy="start `prebuilds worker --role control`, or see its log if it runs")


def unanswered(error: RPCError) -> PrebuildsError:
    """The typed error that a call to Temporal stands for, which no worker has seen."""
    if error.status is RPCStatusCode.INVALID_ARGUMENT or "larger than max" in str(error):  # gRPC's own bound: 4 MB
        return InvalidInput(f"Temporal does not take the request: {error}", remedy="make the request smaller")
    if error.status is RPCStatusCode.NOT_FOUND and "Namespace" in error.message:
        return StackUnreachable(error.message.rstrip("."), remedy=START_TEMPORAL)
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return StackUnreachable(f"Temporal refuses: {error.message}", remedy=SEND_CREDENTIALS)
    return StackUnreachable(f"Temporal does not answer ({error.status.name}): {error}")


def unreached(where: str, error: BaseException) -> StackUnreachable:
    """The error of a connection that cannot be opened to *where*."""
    reasons = INNERMOST.findall(str(error))
    return StackUnreachable(f"cannot reach {where} ({reasons[-1] if reasons else error})", remedy=START_TEMPORAL)


def is_failed_connect(error: BaseException) -> bool:
    """Whether it comes from a client that connects at its first use, as `connect(lazy=True)` gives one."""
    text = str(error)
    return isinstance(error, RuntimeError | ValueError) and text.startswith(("Failed client connect", "invalid target"))


def no_such_workflow(error: RPCError) -> bool:
    """Whether it says that a workflow is not there. That a namespace is not comes with the same status."""
    return error.status is RPCStatusCode.NOT_FOUND and "Namespace" not in error.message
