"""How our processes use Temporal: the connection, short workflows, and the errors of workflows that have failed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from math import inf
from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.failures.temporal import asking_temporal, no_such_workflow, unreached
from prebuilds.payloads import OperatorRequest
from prebuilds.temporal.callers_trace import CallersTrace, traces_here
from prebuilds.temporal.converter import environment_converter
from prebuilds.temporal.core_log import logging_runtime
from prebuilds.temporal.stack_file import embedded_temporal, state_dir
from prebuilds.vocabulary import CONTROL_QUEUE
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

TASK_TIMEOUT = timedelta(seconds=2)
"""The task timeout of short workflows. A worker that is killed during a task is noticed after this time, and not after
the usual 10 s."""
OPERATION_TIMEOUT = timedelta(seconds=60)
"""An operator's request fails when no worker has answered it within this time."""
SUMMARY_BYTES_MAX = 200
"""The longest summary, in bytes. A server refuses a start with a summary of more than 400 bytes, so long names of
workspaces and templates are cut."""
PEOPLE_PRIORITY = 1
"""The priority, within a queue, of work that a person waits for. No work has a higher one."""

ATTRIBUTE_LENGTH_MAX = 128
"""The longest value of a search attribute, in characters; our longest path has 98. The server refuses a start with a
value of more than 2,048 bytes, and JSON takes up to twelve bytes for a character."""
LOOK_AGAIN_S = 60.0
"""How long search attributes are left out after a cluster did not have them, in seconds."""


class SearchAttributes:
    """Our search attributes.

    On a cluster that does not have them, they are left out for a minute, with one warning. They may be registered
    meanwhile.
    """

    missing_until = -inf
    """Until when they are left out, by `time.monotonic`."""

    @classmethod
    def typed(cls, **values: str | None) -> TypedSearchAttributes | None:
        """Return the attributes that have a value; None while they are left out.

        A value that is longer than any of our names is left out too. The worker then refuses the request.
        """
        if time.monotonic() < cls.missing_until:
            return None
        return TypedSearchAttributes(
            [
                SearchAttributePair(SearchAttributeKey.for_keyword(f"Prebuilds{name.title()}"), value)
                for name, value in values.items()
                if value is not None and len(value) <= ATTRIBUTE_LENGTH_MAX
            ]
        )

    @classmethod
    def leave_out(cls) -> None:
        """Leave the attributes out for a minute."""
        if cls.missing_until == -inf:
            logger.warning("This cluster lacks our search attributes; run `prebuilds init` to register them")
        cls.missing_until = time.monotonic() + LOOK_AGAIN_S

    @staticmethod
    def are_missing(error: RPCError) -> bool:
        """Whether a start was refused because the cluster does not have the attributes, and not because of a value."""
        message = str(error)
        return (
            error.status is RPCStatusCode.INVALID_ARGUMENT
            and "search attribute" in message
            # A server that maps names says the first, a server that does not says the second.
            and ("no mapping defined" in message or "is not defined" in message)
        )


async def connect(address: str | None = None, **options: Any) -> Client:
    """Connect as the `temporal` CLI does: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TLS, API key, profile file.

    Args:
        address: The server's address. None uses the environment's; if the environment has none, it uses the server of
            the `prebuilds dev` that runs in PREBUILDS_STATE_DIR.
        options: They are passed on to `temporalio.client.Client.connect`.
    Raises:
        StackUnreachable: The server cannot be reached, or the profile or a certificate's file cannot be read. The
            message says where, and what to do.
        InvalidInput: PREBUILDS_PAYLOAD_KEY cannot be read.
    """
    config = _environment()
    if address is None:
        address = embedded_temporal(state_dir())
    if address is not None:
        config["target_host"] = address
    config.setdefault("target_host", "localhost:7233")
    try:
        converter = environment_converter()
    except ValueError as error:
        raise InvalidInput.field("PREBUILDS_PAYLOAD_KEY", str(error)) from error
    try:
        options = {"data_converter": converter, **options}
        if "plugins" not in options and traces_here():
            options["interceptors"] = [*options.get("interceptors", ()), CallersTrace()]
        options.setdefault("runtime", logging_runtime())
        return await Client.connect(**{**config, **options})
    except (RuntimeError, OSError, RPCError, ValueError) as error:  # the last: an address that is none
        raise unreached(f"Temporal at {config['target_host']}", error) from error


def _environment() -> dict[str, Any]:
    """Return the connection's options from the SDK's own variables and profile file."""
    try:
        return {**ClientConfig.load_client_connect_config()}
    except OSError as error:
        reason = (error.strerror or "it cannot be used").lower()
        remedy = "correct the TEMPORAL_TLS_* variable or the profile"
        raise StackUnreachable.field("TEMPORAL_TLS", f"{error.filename} cannot be read ({reason})", remedy) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # its further lines quote the file, which may hold an API key
        named = os.environ.get("TEMPORAL_PROFILE")
        if named and "not found" in reason:
            message = f"the profile file has no profile {named}"
            raise StackUnreachable.field("TEMPORAL_PROFILE", message, "correct or unset TEMPORAL_PROFILE") from error
        where = os.environ.get("TEMPORAL_CONFIG_FILE") or "temporal.toml in the user's configuration folder"
        remedy = "correct it, or name another one with TEMPORAL_CONFIG_FILE"
        raise StackUnreachable.field("TEMPORAL_CONFIG_FILE", f"{where} cannot be read ({reason})", remedy) from error


async def described(client: Client, workflow_id: str, **options: Any) -> WorkflowExecutionDescription | None:
    """A workflow's description; None when there is no such workflow.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    try:
        return await client.get_workflow_handle(workflow_id).describe(**options)
    except RPCError as error:
        if no_such_workflow(error):
            return None
        raise


async def first_payload(client: Client, workflow_id: str) -> Payload | None:
    """The first payload that a workflow was started with, as it is stored; None for no such workflow, or no input.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    try:
        begun = await anext(client.get_workflow_handle(workflow_id).fetch_history_events(page_size=1))
    except RPCError as error:
        if no_such_workflow(error):
            return None
        raise
    given = begun.workflow_execution_started_event_attributes.input.payloads
    return given[0] if given else None


def summary_of(*words: str | None) -> str:
    """Return *words* as one line for Temporal's UI, without those that are None or empty.

    The line is short enough for any server, even when it is encrypted.
    """
    return escape(" ".join(filter(None, words))).encode()[:SUMMARY_BYTES_MAX].decode(errors="ignore")


async def start_short(
    client: Client,
    workflow: str,
    arg: Any,
    *,
    id: str,
    task_queue: str,
    search: Mapping[str, str | None] | None = None,
    priority: Priority = Priority.default,
    eager: bool = False,
    attach: bool = True,
    within: timedelta | None = None,
    summary: str | None = None,
) -> WorkflowHandle[Any, Any]:
    """Start a short workflow, or attach to the one that runs under this id.

    An id may be used again after the workflow has ended: the database decides what was done already.

    Args:
        search: Search attributes by their short names, such as `owner`; None values are left out.
        eager: Whether to run the first task in this process if it has a worker for the queue.
        attach: Whether to attach to a workflow that runs under this id.
        within: The execution timeout; None for no limit, which saves the server a timer.
        summary: A line about the workflow for Temporal's UI. It must not contain secrets. None shows the type alone.
    Raises:
        WorkflowAlreadyStartedError: A workflow runs under this id, and *attach* is false.
    """
    running = WorkflowIDConflictPolicy.USE_EXISTING if attach else WorkflowIDConflictPolicy.FAIL
    for _ in range(2):
        try:
            return await client.start_workflow(
                workflow,
                arg,
                id=id,
                task_queue=task_queue,
                task_timeout=TASK_TIMEOUT,
                execution_timeout=within,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=running,
                search_attributes=SearchAttributes.typed(**(search or {})),
                request_eager_start=eager,
                priority=priority,
                static_summary=None if summary is None else summary_of(summary),
            )
        except RPCError as error:
            if SearchAttributes.are_missing(error):
                SearchAttributes.leave_out()
                continue
            raise
    raise AssertionError("the second try sends no search attributes")


async def reached(start: Awaitable[WorkflowHandle[Any, Any]]) -> WorkflowHandle[Any, Any]:
    """Wait for a workflow's start, and return its handle.

    Raises:
        InvalidInput: Temporal does not take the request.
        StackUnreachable: Temporal does not answer.
    """
    with asking_temporal():
        return await start


async def result_of(handle: WorkflowHandle[Any, Any]) -> Any:
    """A workflow's result, or the error that it failed with, by its own type."""
    with asking_temporal():
        return await handle.result()


async def operate(client: Client, request: OperatorRequest) -> Any:
    """Have a control worker carry out one operator's request, and return its answer as JSON values.

    Raises:
        PrebuildsError: The error that the worker has answered with, by its own type.
        StackUnreachable: Temporal or the workers have not answered in time.
    """
    handle = await reached(
        client.start_workflow(
            "OperatorRequest",
            request.model_dump(mode="json", exclude_none=True),
            id=f"operator-request/{uuid4()}",
            task_queue=CONTROL_QUEUE,
            task_timeout=TASK_TIMEOUT,
            execution_timeout=OPERATION_TIMEOUT,
            static_summary=summary_of(request.action, request.workspace, "by", request.by),
        )
    )
    return await result_of(handle)
