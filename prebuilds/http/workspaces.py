"""Workspaces over HTTP: list, show, start, stop, retry, keep, renew, set, release and abandon them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import Field

from prebuilds.api import InvalidInput
from prebuilds.http import examples
from prebuilds.http.documents import DECODED, PageQuery, RequestFields, answers, in_path
from prebuilds.http.guard import Guarded
from prebuilds.payloads import ReleaseResult
from prebuilds.planning.policy import Action
from prebuilds.views import (
    AbandonResult,
    KeepResult,
    LeaseRenewal,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceSettings,
)
from prebuilds.vocabulary import TTL_MAX, LeaseSeconds, LeaseSecondsOrNone, Text

router = APIRouter(prefix="/v1/workspaces", tags=["workspaces"])

Workspace = Annotated[str, in_path("`owner/name`, or an id", "alice/alice-dev"), DECODED]


class WorkspaceQuery(PageQuery):
    """Which workspaces."""

    owner: str | None = Field(None, description="Only workspaces of this owner", examples=["alice"])
    preset: str | None = Field(None, description="Only workspaces of this preset, by path or id")
    prebuilt: bool = Field(False, description="Only workspaces that nobody has claimed")


class WorkspaceSet(RequestFields):
    """New settings of a claimed workspace. What is left out, or null, stays as it is."""

    ttl_seconds: float | None = Field(
        None, ge=0, le=TTL_MAX.total_seconds(), description="How long it runs after a start; 0 for no end"
    )
    autostart_schedule: Text | None = Field(
        None, description="A cron expression, with a time zone if it begins `CRON_TZ=`; empty for no schedule"
    )
    lease_seconds: LeaseSecondsOrNone | None = Field(
        None,
        description="How long it is kept from now unless its lease is renewed, also shorter than what is left; 0 for"
        " no lease",
    )


class LeaseRenew(RequestFields):
    """How to renew a lease."""

    lease_seconds: LeaseSeconds | None = Field(
        None, description="How long each renewal lasts from now on; left out, or null, for as long as before"
    )


SETTINGS_BODY = {"ttl_seconds": 28800, "autostart_schedule": "CRON_TZ=Europe/Berlin 30 9 * * 1-5"}


@router.get(
    "",
    summary="List workspaces",
    operation_id="list_workspaces",
    responses=answers({"workspaces": [examples.WORKSPACE], "next": None}, 404, on_404="No such preset"),
)
async def list_workspaces(guard: Guarded, query: Annotated[WorkspaceQuery, Query()]) -> WorkspacePage:
    """The live workspaces that the token may see, by the preset's path and by age."""
    page = await guard.operations.workspaces.list(
        owner=query.owner,
        preset=query.preset,
        prebuilt=query.prebuilt,
        reach=guard.reach(Action.SEE_WORKSPACE),
        limit=query.limit,
        after=query.after,
    )
    return WorkspacePage(workspaces=page.rows, next=page.next)


@router.get(
    "/{workspace}",
    summary="Show a workspace",
    operation_id="show_workspace",
    responses=answers(examples.DETAILS, 404),
)
async def show_workspace(guard: Guarded, workspace: Workspace) -> WorkspaceDetails:
    """With its resources, its builds and its newest events. A deleted workspace is found by its id."""
    return await guard.operations.workspaces.show(await guard.workspace(workspace, Action.SEE_WORKSPACE))


@router.post(
    "/{workspace}:start",
    summary="Start a workspace",
    operation_id="start_workspace",
    responses=answers(examples.CHANGE | {"transition": "start", "status": "starting"}, 404, 409),
)
async def start_workspace(guard: Guarded, workspace: Workspace) -> WorkspaceChange:
    """Start a claimed workspace. Nothing changes if it runs or is starting."""
    found = await guard.workspace(workspace, Action.START_WORKSPACE)
    return await guard.operations.workspaces.start(guard.actor, found)


@router.post(
    "/{workspace}:stop",
    summary="Stop a workspace",
    operation_id="stop_workspace",
    responses=answers(examples.CHANGE, 404, 409),
)
async def stop_workspace(guard: Guarded, workspace: Workspace) -> WorkspaceChange:
    """Stop a claimed workspace. Its data is kept. Nothing changes if it is stopped or stopping."""
    found = await guard.workspace(workspace, Action.STOP_WORKSPACE)
    return await guard.operations.workspaces.stop(guard.actor, found)


@router.post(
    "/{workspace}:retry",
    summary="Repeat a workspace's failed build",
    operation_id="retry_workspace",
    responses=answers(examples.CHANGE | {"transition": "start", "status": "starting"}, 404, 409),
)
async def retry_workspace(guard: Guarded, workspace: Workspace) -> WorkspaceChange:
    """With the same inputs. Nothing changes if the latest build has neither failed nor been canceled."""
    found = await guard.workspace(workspace, Action.RETRY_WORKSPACE)
    return await guard.operations.workspaces.retry(guard.actor, found)


@router.post(
    "/{workspace}:keep",
    summary="Keep a failed or stopped prebuild",
    operation_id="keep_workspace",
    responses=answers(examples.KEPT, 404, 409),
)
async def keep_workspace(
    guard: Guarded, workspace: Workspace, undo: Annotated[bool, Query(description="Keep it no longer")] = False
) -> KeepResult:
    """It is not deleted automatically, so that somebody can examine it."""
    found = await guard.workspace(workspace, Action.KEEP_WORKSPACE)
    return await guard.operations.workspaces.keep(guard.actor, found, undo=undo)


@router.post(
    "/{workspace}:renew",
    summary="Renew a workspace's lease",
    operation_id="renew_lease",
    responses=answers(examples.RENEWED, 404, 413, on_404="No such workspace, or it is being released"),
)
async def renew_lease(
    guard: Guarded,
    workspace: Workspace,
    body: Annotated[LeaseRenew | None, Body(examples=[{"lease_seconds": 600}])] = None,
) -> LeaseRenewal:
    """The lease then lasts its whole time from now; it never ends earlier than before. No body is needed."""
    found = await guard.workspace(workspace, Action.RENEW_LEASE)
    seconds = None if body is None else body.lease_seconds
    lease = None if seconds is None else timedelta(seconds=seconds)
    return await guard.operations.workspaces.renew(guard.actor, found, lease=lease)


@router.post(
    "/{workspace}:abandon",
    summary="Give up a workspace that cannot be deleted",
    operation_id="abandon_workspace",
    responses=answers(examples.ABANDONED, 404),
)
async def abandon_workspace(guard: Guarded, workspace: Workspace) -> AbandonResult:
    """After its deletion has failed. Its name is free again, and nothing destroys what it has any more."""
    found = await guard.workspace(workspace, Action.ABANDON_WORKSPACE)
    return await guard.operations.workspaces.abandon(guard.actor, found)


@router.patch(
    "/{workspace}",
    summary="Change a workspace's ttl, schedule and lease",
    operation_id="set_workspace",
    responses=answers(examples.SETTINGS, 404, 409, 413),
)
async def set_workspace(
    guard: Guarded, workspace: Workspace, body: Annotated[WorkspaceSet, Body(examples=[SETTINGS_BODY])]
) -> WorkspaceSettings:
    """Change a claimed workspace's settings. What is left out, or null, stays as it is."""
    found = await guard.workspace(workspace, Action.SET_WORKSPACE)
    if body.ttl_seconds is None and body.autostart_schedule is None and body.lease_seconds is None:
        fields = "ttl_seconds, autostart_schedule and lease_seconds"
        raise InvalidInput.field("ttl_seconds", f"give at least one of {fields}")
    ttl, lease = (
        None if seconds is None else timedelta(seconds=seconds) for seconds in (body.ttl_seconds, body.lease_seconds)
    )
    set_workspace = guard.operations.workspaces.set
    return await set_workspace(guard.actor, found, ttl=ttl, autostart=body.autostart_schedule, lease=lease)


@router.delete(
    "/{workspace}",
    summary="Release a workspace",
    operation_id="release_workspace",
    responses=answers(examples.RELEASED, 404),
)
async def release_workspace(guard: Guarded, workspace: Workspace) -> ReleaseResult:
    """Its deletion is recorded, and goes on in the background. The same again gets the same build, until it is gone."""
    found = await guard.workspace(workspace, Action.RELEASE_WORKSPACE)
    return await guard.operations.workspaces.release(guard.actor, found)
