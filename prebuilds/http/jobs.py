"""Builds as jobs over HTTP: list and cancel them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import ConfigDict, Field

from prebuilds.http import examples
from prebuilds.http.documents import PageQuery, answers
from prebuilds.http.guard import Guarded
from prebuilds.planning.policy import Action
from prebuilds.views import CancelResult, JobFilter, JobPage
from prebuilds.vocabulary import BuildStatus

router = APIRouter(prefix="/v1", tags=["jobs"])


class JobQuery(PageQuery):
    """Which builds. A build has to match each field that is given."""

    initiator: str | None = Field(None, description="Who asked for it; `prebuilds` for the pools' own builds")
    status: list[BuildStatus] = Field(default_factory=list, description="One of these; repeat it for more")
    template: str | None = Field(None, description="`organization/template`, or an id")


class CancelBody(JobFilter):
    """Which builds, by at least one field. Without `status`: the pending ones."""

    model_config = ConfigDict(defer_build=False)


@router.get(
    "/jobs",
    summary="List builds",
    operation_id="list_jobs",
    responses=answers({"jobs": [examples.JOB], "next": None}, 404, on_404="No such template"),
)
async def list_jobs(guard: Guarded, query: Annotated[JobQuery, Query()]) -> JobPage:
    """List the builds of all workspaces that the token may see, newest first."""
    reach = guard.reach(Action.SEE_JOBS)
    wanted = JobFilter(initiator=query.initiator, status=query.status, template=query.template)
    page = await guard.operations.jobs.list(wanted, reach=reach, limit=query.limit, after=query.after)
    return JobPage(jobs=page.rows, next=page.next)


@router.post(
    "/jobs:cancel",
    summary="Cancel builds",
    operation_id="cancel_jobs",
    responses=answers({"canceled": 3, "skipped": 0}, 404, 413, on_404="No such template"),
)
async def cancel_jobs(
    guard: Guarded,
    body: Annotated[CancelBody, Body(examples=[{"initiator": "prebuilds", "template": "acme/python"}])],
    dry_run: Annotated[bool, Query(description="Count them, and cancel none")] = False,
) -> CancelResult:
    """All that match and are within the token's organizations. A pending one ends at once."""
    reach = guard.reach(Action.CANCEL_JOBS)
    return await guard.operations.jobs.cancel(guard.actor, body, reach=reach, dry_run=dry_run)
