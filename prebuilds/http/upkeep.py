"""What operators do now and then, over HTTP: transfer and prune workspaces, replace a template's prebuilds, and compare
the hosts with the record."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import Field

from prebuilds.http import examples, upkeep_examples
from prebuilds.http.documents import RequestFields, answers
from prebuilds.http.guard import Guarded
from prebuilds.http.templates import Template
from prebuilds.http.workspaces import Workspace
from prebuilds.planning.policy import Action
from prebuilds.views import InvalidateResult, InventoryReport, PruneResult, TransferResult
from prebuilds.vocabulary import Text

router = APIRouter(prefix="/v1", tags=["upkeep"])


class TransferBody(RequestFields):
    """To whom."""

    to: Text = Field(description="The new owner, an enabled member of the workspace's organization")
    name: Text | None = Field(None, description="The workspace's new name; null keeps its name")


class PruneBody(RequestFields):
    """Which prebuilds; at least one of `failed` and `stopped`."""

    failed: bool = Field(False, description="Those that failed or were canceled")
    stopped: bool = Field(False, description="Those that were stopped")
    preset: Text | None = Field(None, description="Only prebuilds of this preset, by path or id")


@router.post(
    "/workspaces/{workspace}:transfer",
    summary="Transfer a workspace to another owner",
    operation_id="transfer_workspace",
    responses=answers(upkeep_examples.TRANSFERRED, 404, 409, 413),
)
async def transfer_workspace(
    guard: Guarded, workspace: Workspace, body: Annotated[TransferBody, Body(examples=[{"to": "bob"}])]
) -> TransferResult:
    """It is handed over as after a claim, and a stopped one is started. Nothing changes if it is theirs already."""
    found = await guard.workspace(workspace, Action.TRANSFER_WORKSPACE)
    return await guard.operations.workspaces.transfer(guard.actor, found, body.to, name=body.name)


@router.post(
    "/workspaces:prune",
    summary="Delete failed or stopped prebuilds now",
    operation_id="prune_workspaces",
    responses=answers(upkeep_examples.PRUNED, 404, 413, on_404="No such preset"),
)
async def prune_workspaces(
    guard: Guarded,
    body: Annotated[PruneBody, Body(examples=[{"failed": True}])],
    dry_run: Annotated[bool, Query(description="Count them, and delete none")] = False,
) -> PruneResult:
    """Instead of at their time, also while the loop is paused. Those that somebody keeps stay."""
    if body.preset is None:
        guard.check(Action.PRUNE_WORKSPACES)
        preset = None
    else:
        preset = await guard.preset(body.preset, Action.PRUNE_WORKSPACES)
    return await guard.operations.workspaces.prune(
        guard.actor, failed=body.failed, stopped=body.stopped, preset=preset, dry_run=dry_run
    )


@router.post(
    "/templates/{template}:invalidate",
    summary="Replace the prebuilds of all presets of a template",
    operation_id="invalidate_template",
    responses=answers(examples.INVALIDATED | {"presets": 2, "prebuilds": 6}, 404),
)
async def invalidate_template(guard: Guarded, template: Template) -> InvalidateResult:
    """From now on nobody can claim one that exists now."""
    found = await guard.template(template, Action.INVALIDATE_PRESET)
    return await guard.operations.presets.invalidate(guard.actor, template=found)


@router.post(
    "/inventory",
    summary="Compare what exists on the hosts with what is recorded",
    operation_id="inventory",
    responses=answers(upkeep_examples.INVENTORY),
)
async def inventory(
    guard: Guarded,
    fix: Annotated[bool, Query(description="Act on what an earlier inventory has seen, too")] = False,
) -> InventoryReport:
    """Orphans, and workspaces that have vanished. Takes as long as the slowest host needs, a minute at most."""
    guard.check(Action.FIX_INVENTORY if fix else Action.SEE_INVENTORY)
    compared = guard.operations.inventory
    return await (compared.fix(guard.actor) if fix else compared.compare())
