"""Converts errors of Temporal's client and of gRPC: a server that is away or refuses, a workflow that has failed."""

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
CHECK_TLS = (
    f"{START_TEMPORAL}; if it demands TLS, TEMPORAL_TLS_* must name the file of its authority, and a client "
    "certificate that it accepts and that has not expired"
)
CUT_OFF = re.compile("certificate|close_notify|alert|broken pipe|canceled|transport error", re.IGNORECASE)
"""Finds a refused certificate in a reason. A server that refuses a client's cuts the connection, and the client often
sees only that."""
UNTRUSTED = re.compile(r"InvalidCertificate\((\w+)")
INNERMOST = re.compile(r'(?:message|error): "([^"]+)"')
"""Finds the reason in the SDK core's text about a failed first connection; the last match is the innermost cause."""

RAISED = (
    RPCError,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    RuntimeError,  # a lazy client cannot connect
    ValueError,  # a lazy client has an invalid address
)
"""Errors that a call to Temporal may raise. The last two count only if `is_failed_connect` is true for them."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """Convert the error of a call to Temporal; None for any other error, which is a bug."""
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
    """Convert errors of calls to Temporal inside the block to typed errors.

    Raises:
        InvalidInput: Temporal does not accept the request.
        StackUnreachable: Temporal does not answer.
        PrebuildsError: The awaited workflow has failed with this error.
    """
    try:
        yield
    except RAISED as error:
        if (typed := as_typed(error)) is None:
            raise
        raise typed from error


@contextmanager
def asking_loop() -> Iterator[None]:
    """Convert errors of calls to the reconciliation loop inside the block, as `asking_temporal` does.

    Raises:
        OrchestratorNotRunning: The loop does not run.
        StackUnreachable: Temporal does not answer, or no control worker runs the loop.
    """
    with asking_temporal():
        try:
            yield
        except RPCError as error:
            if no_such_workflow(error):
                raise OrchestratorNotRunning("the reconciliation loop is not running") from error
            if error.status is RPCStatusCode.FAILED_PRECONDITION:  # no worker took the task within half a minute
                raise no_control_worker() from error
            raise


def no_control_worker(message: str = "no control worker has taken up the request") -> StackUnreachable:
    """Make the error of a request that no control worker answers."""
    return StackUnreachable(message, remedy="start `prebuilds worker --role control`, or see its log if it runs")


def unanswered(error: RPCError) -> PrebuildsError:
    """Convert an RPC error. It comes from the Temporal server or the connection to it; no worker was involved."""
    if error.status is RPCStatusCode.INVALID_ARGUMENT or "larger than max" in str(error):  # gRPC's own limit is 4 MB
        return InvalidInput(f"Temporal does not accept the request: {error}", remedy="make the request smaller")
    if error.status is RPCStatusCode.NOT_FOUND and "Namespace" in error.message:
        return StackUnreachable(
            f"Temporal has no such namespace ({error.message.rstrip('.')})",
            remedy="create it with `temporal operator namespace create -n NAME`, or correct TEMPORAL_NAMESPACE",
        )
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return StackUnreachable(f"Temporal refuses: {error.message}", remedy=SEND_CREDENTIALS)
    return StackUnreachable(f"Temporal does not answer ({error.status.name}): {error}")


def unreached(where: str, error: BaseException) -> StackUnreachable:
    """Make the error of a failed connection to *where*, with the innermost reason in *error*."""
    text = str(error)
    if untrusted := UNTRUSTED.search(text):
        reason = f"its certificate is not trusted: {untrusted[1]}"
    else:
        reason = [text, *INNERMOST.findall(text)][-1]
    remedy = CHECK_TLS if CUT_OFF.search(reason) else START_TEMPORAL
    return StackUnreachable(f"cannot reach {where} ({reason})", remedy=remedy)


def is_failed_connect(error: BaseException) -> bool:
    """True if *error* comes from a lazy client, as `connect(lazy=True)` returns it, that could not connect."""
    text = str(error)
    return isinstance(error, RuntimeError | ValueError) and text.startswith(("Failed client connect", "invalid target"))


def no_such_workflow(error: RPCError) -> bool:
    """True if *error* means that a workflow does not exist. A missing namespace has the same status and is excluded."""
    return error.status is RPCStatusCode.NOT_FOUND and "Namespace" not in error.message
