"""What earlier releases left running goes on: every stored history replays, twice in one process."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces
from workflows.lint_preset import LintPreset
from workflows.operator_request import OperatorRequest
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_inventory import ReconcileInventory
from workflows.reconcile_preset import ReconcilePreset
from workflows.workspace_build import WorkspaceBuild

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json.gz"))
WORKFLOWS = [
    PrebuildsOrchestrator,
    ReconcilePreset,
    WorkspaceBuild,
    ClaimWorkspace,
    ClaimWorkspaces,
    OperatorRequest,
    ReconcileInventory,
    LintPreset,
]


def test_every_workflow_type_has_a_history() -> None:
    kinds = {path.name.removesuffix(".json.gz").rpartition("-")[2] for path in HISTORIES}
    assert kinds == {workflow.__name__ for workflow in WORKFLOWS}
    assert len(HISTORIES) >= 12, "histories are added, never removed"


@pytest.mark.parametrize("path", HISTORIES, ids=[p.name for p in HISTORIES])
async def test_a_stored_history_replays(path: Path) -> None:
    with gzip.open(path, "rt") as file:
        history = WorkflowHistory.from_json(path.stem, file.read())
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter)
    for _ in range(2):
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        assert result.replay_failure is None
