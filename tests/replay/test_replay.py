"""Open runs of earlier releases continue: every stored history replays, twice in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from prebuilds.replaying import WORKFLOWS
from tests.replay.cases import CASES
from tests.replay.steps import shows, steps_of
from tests.replay.stored import HISTORIES, case_of, load, replay

HISTORIES_MIN = 59
"""A file goes only together with the old path of a patch, which nothing else replays."""
names = pytest.mark.parametrize("path", HISTORIES, ids=[path.name for path in HISTORIES])


def test_every_workflow_and_every_case_has_a_history() -> None:
    assert CASES.keys() == {workflow.__name__ for workflow in WORKFLOWS}
    stored = {case_of(path) for path in HISTORIES}
    assert stored >= {(kind, case) for kind, cases in CASES.items() for case in cases}, "histories are added only"
    assert len(HISTORIES) >= HISTORIES_MIN


@names
async def test_a_stored_history_replays(path: Path) -> None:
    kind, case = case_of(path)
    history = load(path)
    pattern = CASES[kind].get(case, "")  # the oldest files have no case
    assert shows(steps_of(history), pattern), "it is not what its name says"
    assert await replay(history, *WORKFLOWS, times=2) is None


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.__name__)
async def test_a_workflow_does_nothing_that_the_sandbox_forbids(workflow: type[object]) -> None:
    """Workers run without the sandbox for speed. Here it detects reads of the clock or of a file."""
    smallest = min((p for p in HISTORIES if case_of(p)[0] == workflow.__name__), key=lambda path: path.stat().st_size)
    assert await replay(load(smallest), workflow, runner=SandboxedWorkflowRunner()) is None
