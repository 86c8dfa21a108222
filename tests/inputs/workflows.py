"""Workflows with arbitrary input, signals, queries and updates: each ends or goes on, and no workflow task fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import uuid4

from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from prebuilds.api import ERRORS
from prebuilds.settings import Settings
from prebuilds.settings.worker_options import WorkerOptions
from prebuilds.temporal.converter import data_converter
from prebuilds.temporal.search_attributes import register
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE
from tests.inputs.claims import requests
from tests.inputs.values import Trial, json_values, scalars, texts
from tests.workflow.conftest import binary
from worker import serve

QUEUES = {
    "ClaimWorkspace": CLAIMS_QUEUE,
    "ClaimWorkspaces": CLAIMS_QUEUE,
    "OperatorRequest": CONTROL_QUEUE,
    "LintPreset": CONTROL_QUEUE,
    "ReconcileInventory": CONTROL_QUEUE,
    "ReconcilePreset": CONTROL_QUEUE,
    "WorkspaceBuild": CONTROL_QUEUE,
    "PrebuildsOrchestrator": CONTROL_QUEUE,
}
ENDS_WITHIN_S = 30.0
LONG_RUNS = ("PrebuildsOrchestrator", "ReconcileInventory", "LintPreset", "WorkspaceBuild")
"""The loop, and what waits for provisioner workers, of which none runs here."""
LONG_S = 0.5
HANDLERS = ("stop", "nudge", "set_interval", "reconcile", "wake", "status", "nobody", "__temporal_x", "__stack_trace")
ACTIONS = (
    "status",
    "start",
    "pause",
    "resume",
    "list_workspaces",
    "show_workspace",
    "release",
    "release_claims",
    "set",
    "run_drill",
    "list_drills",
    "show_drill",
)
_numbers = itertools.count(1)


def _raw(encoding: bytes, data: bytes) -> RawValue:
    return RawValue(Payload(metadata={"encoding": encoding}, data=data))


def _is_sendable(values: list[Any]) -> bool:
    try:
        data_converter.payload_converter.to_payloads(values)
    except Exception:
        return False
    return True


JSON = (b"{", b'"\\ud83d"', b"NaN", b"\xff", b"[" * 5000, b"1e999", b"9" * 5000)
# Payloads that other SDKs, or no SDK at all, may send.
payloads = st.sampled_from(
    (
        *(
            _raw(b"json/plain", data)
            for data in (b"{", b'"\\ud83d"', b"NaN", b"\xff", b"[" * 5000, b"1e999", b"9" * 5000)
        ),
        *(_raw(b"private/1", b"\xff"), _raw(b"binary/null", b""), _raw(b"binary/plain", b"\0\xff"), _raw(b"", b"")),
        RawValue(Payload()),
    )
)
# The SDK refuses to send values that JSON cannot express.
sendable = (json_values | scalars).filter(lambda value: _is_sendable([value]))


operator_requests = st.fixed_dictionaries(
    {"action": st.sampled_from(ACTIONS) | texts},
    optional={
        "workspace": texts,
        "reason": texts,
        "by": texts,
        "interval_seconds": scalars,
        "limit": scalars,
        "after": texts,
        "ttl_seconds": scalars,
        "lease_seconds": scalars,
        "autostart_schedule": texts,
        "claim_ids": st.lists(texts, max_size=2),
        "target": texts,
        "template": texts,
        "drill": texts,
    },
)
records = st.dictionaries(
    st.sampled_from(("preset_id", "pass_number", "build_id", "carried", "fix", "preset", "interval_seconds", "queue")),
    sendable | st.builds(lambda: str(uuid4())),
    max_size=3,
)
inputs = st.lists(payloads | sendable | requests() | operator_requests | records, max_size=2)
messages = st.tuples(
    st.sampled_from(("signal", "signal", "query", "update")),
    st.sampled_from(HANDLERS) | texts,
    st.lists(payloads | sendable, max_size=2),
)
LIKELY = {"OperatorRequest": operator_requests, "ClaimWorkspace": requests(), "ClaimWorkspaces": requests()}
runs = st.sampled_from(sorted(QUEUES)).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        inputs | st.lists(LIKELY.get(kind, records), min_size=1, max_size=1),
        st.lists(messages, max_size=3),
    )
)


@contextlib.asynccontextmanager
async def served(trial: Trial) -> AsyncIterator[Client]:
    """A dev server, and a worker with the roles of control and claims."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"), data_converter=data_converter
    ) as environment:
        with mock.patch.dict(os.environ, {"PREBUILDS_STATE_DIR": str(trial.folder)}):
            await register(environment.client)
            options = WorkerOptions(("control", "claims"))
            async with serve(options, Settings(), trial.engine, environment.client, trial.url):
                yield environment.client


async def check_run(client: Client, kind: str, given: list[Any], sent: list[tuple[str, str, list[Any]]]) -> str:
    """Start a workflow, send it the messages, and return the outcome."""
    if not _is_sendable(given):
        return "not sent"
    id = f"{'claim-workspace/' if kind == 'ClaimWorkspace' else ''}tried-{next(_numbers)}"
    handle: WorkflowHandle[Any, Any] = await client.start_workflow(
        kind, args=given, id=id, task_queue=QUEUES[kind], task_timeout=timedelta(seconds=2)
    )
    for how, name, args in sent:
        await _send(handle, how, name, args)
    ended = await _end_of(handle, kind)
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            cause = event.workflow_task_failed_event_attributes.cause
            # A message that came while the run was ending; it is looked at, and the run ends again.
            assert cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, event
    if ended == "goes on":
        await handle.terminate("tried")
    return f"{kind} {ended}"


async def _end_of(handle: WorkflowHandle[Any, Any], kind: str) -> str:
    """Wait until a run ends or turns out to be one that goes on, as the loop and a waiting claim do."""
    try:
        async with asyncio.timeout(LONG_S if kind in LONG_RUNS else ENDS_WITHIN_S):
            await handle.result()
            return "completed"
    except TimeoutError:
        waits = kind == "ClaimWorkspace" and (await handle.query("status"))["state"] == "waiting"
        if kind in LONG_RUNS or waits:
            return "goes on"
        raise AssertionError(f"{kind} hangs") from None
    except WorkflowFailureError as failed:
        if isinstance(failed.cause, CancelledError):
            return "canceled"
        kind_of_error = failed.cause.type if isinstance(failed.cause, ApplicationError) else None
        if kind_of_error in ERRORS:
            return str(kind_of_error)
        raise AssertionError(f"{kind} ended without a type: {failed.cause!r}") from failed


async def _send(handle: WorkflowHandle[Any, Any], how: str, name: str, args: list[Any]) -> None:
    if not name or not _is_sendable([name, *args]):
        return
    bounds: dict[str, Any] = {"rpc_timeout": timedelta(seconds=10)}
    with contextlib.suppress(RPCError, WorkflowQueryFailedError, WorkflowUpdateFailedError):
        if how == "signal":
            await handle.signal(name, args=args, **bounds)
        elif how == "query":
            await handle.query(name, args=args, **bounds)
        else:
            await handle.execute_update(name, args=args, **bounds)
