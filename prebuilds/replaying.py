"""Replays production histories against this release's workflows: whether its workers can go on with what others have
begun."""

from __future__ import annotations

import gzip
import logging
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseError
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from prebuilds.api import InvalidInput
from prebuilds.failures.temporal import asking_temporal, no_such_workflow
from prebuilds.settings import load_settings, temporal_address
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.converter import environment_converter
from prebuilds.views import Difference, Replayed, ReplayReport
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces
from workflows.drill_template import DrillTemplate
from workflows.lint_preset import LintPreset
from workflows.operator_request import OperatorRequest
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_inventory import ReconcileInventory
from workflows.reconcile_preset import ReconcilePreset
from workflows.workspace_build import WorkspaceBuild

WORKFLOWS: Sequence[type[Any]] = (
    PrebuildsOrchestrator,
    ReconcilePreset,
    WorkspaceBuild,
    ClaimWorkspace,
    ClaimWorkspaces,
    OperatorRequest,
    ReconcileInventory,
    LintPreset,
    DrillTemplate,
)
GZIP = b"\x1f\x8b"
UNREADABLE = (
    *(ValueError, ParseError, IndexError, KeyError, TypeError, AttributeError),
    *(EOFError, zlib.error, RecursionError),
)
"""Exceptions of reading a file that is no history."""
MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
"""The SDK's words within the text of its error."""


async def replay(files: Sequence[str], workflow_ids: Sequence[str]) -> ReplayReport:
    """Replay histories with the environment's data converter.

    Args:
        files: Histories as `temporal workflow show -o json` prints them, gzipped or not; `-` is stdin.
        workflow_ids: Workflows of the environment's namespace; the latest run of each.
    Raises:
        InvalidInput: A file cannot be read, or a workflow does not exist.
        StackUnreachable: Temporal does not answer.
    """
    histories = [read_history(file) for file in files]
    if workflow_ids:
        histories += await _fetch(workflow_ids)
    with _quietly():
        replayed = [await replay_history(history) for history in histories]
    return ReplayReport(ok=all(each.difference is None for each in replayed), histories=replayed)


def read_history(file: str) -> WorkflowHistory:
    """Read a history from a file. Raises InvalidInput when the file has no history."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        history = WorkflowHistory.from_json(file, content.decode())
        if not history.events[0].HasField("workflow_execution_started_event_attributes"):
            raise ValueError("the SDK would wait for the beginning without end")
        first = history.events[0].workflow_execution_started_event_attributes
    except OSError as error:
        raise InvalidInput.field("--from", f"{file} cannot be read ({error.strerror or error})") from error
    except UNREADABLE as error:
        remedy = "save one with `temporal workflow show --workflow-id ID -o json`"
        raise InvalidInput.field("--from", f"{file} is no workflow history", remedy) from error
    return WorkflowHistory(first.workflow_id or file, history.events)


async def _fetch(workflow_ids: Sequence[str]) -> list[WorkflowHistory]:
    client = await connect(temporal_address(load_settings()))
    found = []
    for workflow_id in workflow_ids:
        with asking_temporal():
            try:
                found.append(await client.get_workflow_handle(workflow_id).fetch_history())
            except RPCError as error:
                if not no_such_workflow(error):
                    raise
                message = f"no workflow {workflow_id} is known in the namespace {client.namespace}"
                remedy = "its history is kept for the namespace's retention only; see `temporal workflow list`"
                raise InvalidInput.field("--workflow-id", message, remedy) from error
    return found


async def replay_history(history: WorkflowHistory) -> Replayed:
    """Replay one history, and find the first event that this code does not give."""
    started = history.events[0].workflow_execution_started_event_attributes
    failure = await _replay(history)
    difference = None
    if failure is not None:
        event = await _first_difference(history)
        difference = Difference(
            event_id=event and event.event_id,
            event_type=event and _type_of(event),
            message=_message(failure),
        )
    return Replayed(
        workflow_id=history.workflow_id,
        run_id=started.original_execution_run_id,
        workflow_type=started.workflow_type.name,
        events=len(history.events),
        difference=difference,
    )


async def _replay(history: WorkflowHistory) -> Exception | None:
    replayer = Replayer(
        workflows=WORKFLOWS,
        data_converter=environment_converter(),
        workflow_runner=UnsandboxedWorkflowRunner(),
        debug_mode=True,  # without a limit of 2 s for a step: many signals at once take longer on a busy machine
        runtime=Runtime(telemetry=TelemetryConfig(logging=None)),  # its warnings would say the same once more
    )
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


async def _first_difference(history: WorkflowHistory) -> Any:
    """The last event of the shortest beginning of *history* that does not replay; None if its end decides."""
    fits, fails = 1, len(history.events)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        beginning = WorkflowHistory(history.workflow_id, history.events[:middle])
        if await _replay(beginning) is None:
            fits = middle
        else:
            fails = middle
    return history.events[fails - 1]


def _type_of(event: Any) -> str:
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return "".join(word.capitalize() for word in name.split("_"))


def _message(failure: Exception) -> str:
    found = MESSAGE.search(str(failure))
    return found[1].replace('\\"', '"') if found else str(failure)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the SDK from logging each failed task: the report says it."""
    logger = logging.getLogger("temporalio")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
