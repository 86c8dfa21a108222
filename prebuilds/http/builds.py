"""Builds over HTTP: which there are of a workspace, how one stands, and a wait for its end."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query
from pydantic import Field

from prebuilds.http import examples, upkeep_examples
from prebuilds.http.documents import RequestFields, answers
from prebuilds.http.guard import Guard, Guarded
from prebuilds.http.waiting import wait_of, waiting_turn
from prebuilds.payloads import WorkspaceBuildResult
from prebuilds.payloads.not_found import no_build, no_log
from prebuilds.planning.policy import Action
from prebuilds.views import LoggedBuilds

router = APIRouter(prefix="/v1/builds", tags=["builds"])

BuildId = Annotated[UUID, Path(description="A build's id", examples=[examples.JOB["build_id"]])]
Prefer = Annotated[str | None, Header(description="`wait=N` holds the answer for up to N seconds, at most 60")]


class BuildsQuery(RequestFields):
    """Whose builds."""

    of: str = Field(description="A build's id, a workspace's id, or `owner/name`", examples=["alice/alice-dev"])
    latest: bool = Field(False, description="Only the latest one; of a released workspace, the latest that has a log")


@router.get(
    "",
    summary="List the builds of a workspace",
    operation_id="list_builds",
    responses=answers({"builds": [upkeep_examples.LOGGED_BUILD]}, 404),
)
async def list_builds(guard: Guarded, query: Annotated[BuildsQuery, Query()]) -> LoggedBuilds:
    """Oldest first. A name that no live workspace has means the one that had it last."""
    guard.reach(Action.SEE_LOG)
    logs = guard.operations.logs
    found = [await logs.latest(query.of)] if query.latest else await logs.builds(query.of)
    await guard.workspace(str(found[0].workspace_id), Action.SEE_LOG, no_log(query.of))
    return LoggedBuilds(builds=found)


@router.get(
    "/{build_id}",
    summary="How a build stands",
    operation_id="get_build",
    responses=answers(upkeep_examples.BUILD_RESULT, 404),
)
async def get_build(guard: Guarded, build_id: BuildId, prefer: Prefer = None) -> WorkspaceBuildResult:
    """With `Prefer: wait=N` the answer is held until the build has ended, or N seconds are over. `status` is
    `succeeded`, `failed` or `canceled` then."""
    guard.reach(Action.SEE_WORKSPACE)
    builds = guard.operations.builds
    found = await builds.find(build_id)
    await guard.workspace(str(found.workspace_id), Action.SEE_WORKSPACE, no_build(build_id))
    if not found.status.ended and (within_s := wait_of(prefer)) > 0:
        with waiting_turn(guard.service, guard.actor.token_id):
            await _until_ended(guard, build_id, within_s)
    return await builds.read(build_id)


async def _until_ended(guard: Guard, build_id: UUID, within_s: float) -> None:
    """Wait for a build's end. It ends early when the server is about to end."""
    ending = asyncio.create_task(guard.service.builds.wait_ended(build_id, within_s))
    draining = asyncio.create_task(guard.service.draining.wait())
    try:
        await asyncio.wait({ending, draining}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        draining.cancel()
