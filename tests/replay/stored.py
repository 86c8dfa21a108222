"""The stored histories, and replaying one as our workers do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json.gz"))


def case_of(path: Path) -> tuple[str, str]:
    """Return the workflow type and the case of a stored file, `NAME-CASE-TYPE.json.gz`."""
    stem = path.name.removesuffix(".json.gz")
    rest, _, kind = stem.rpartition("-")
    return kind, rest.partition("-")[2]


def load(path: Path) -> WorkflowHistory:
    with gzip.open(path, "rt") as file:
        return WorkflowHistory.from_json(path.name, file.read())


async def replay(
    history: WorkflowHistory, *workflows: type[Any], times: int = 1, runner: WorkflowRunner | None = None
) -> Exception | None:
    """Replay a history *times* times in this process; return the first failure, if any."""
    replayer = Replayer(
        workflows=list(workflows),
        data_converter=pydantic_data_converter,
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        # Without a limit of 2 s for a step: replaying ten thousand signals at once takes longer on a busy machine. In
        # debug mode the sandbox would be off, too.
        debug_mode=runner is None,
    )
    for _ in range(times):
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        if result.replay_failure is not None:
            return result.replay_failure
    return None
