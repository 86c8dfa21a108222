"""Drills over HTTP: begin, list and show them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query
from pydantic import Field

from prebuilds.http import examples
from prebuilds.http.documents import RequestFields, TemplateQuery, answers
from prebuilds.http.guard import Guarded
from prebuilds.payloads.not_found import no_drill
from prebuilds.planning.policy import Action, Resource
from prebuilds.views import DrillPage, DrillRow

router = APIRouter(prefix="/v1/drills", tags=["drills"])


class DrillBody(RequestFields):
    """Which template or preset to drill."""

    target: str = Field(description="`organization/template`, whose presets take turns, or a preset's path")


@router.get(
    "",
    summary="List drills",
    operation_id="list_drills",
    responses=answers({"drills": [examples.DRILL], "next": None}, 404, on_404="No such template"),
)
async def list_drills(guard: Guarded, query: Annotated[TemplateQuery, Query()]) -> DrillPage:
    """The drills of all templates that the token may see, newest first."""
    reach = guard.reach(Action.SEE_TEMPLATES)
    page = await guard.operations.drills.list(query.template, reach=reach, limit=query.limit, after=query.after)
    return DrillPage(drills=page.rows, next=page.next)


@router.post(
    "",
    summary="Begin a drill",
    operation_id="run_drill",
    responses=answers(examples.DRILL, 404, 413, on_404="No such template or preset"),
)
async def run_drill(guard: Guarded, body: Annotated[DrillBody, Body(examples=[{"target": "acme/python"}])]) -> DrillRow:
    """A prebuild is claimed for nobody, tried out and released; never the last ready one. It counts as no demand."""
    guard.check(Action.RUN_DRILL, Resource(body.target.partition("/")[0]))
    return await guard.operations.drills.run(guard.actor, body.target)


@router.get(
    "/{drill}",
    summary="Show a drill",
    operation_id="show_drill",
    responses=answers(examples.DRILL, 404, on_404="No such drill"),
)
async def show_drill(guard: Guarded, drill: UUID) -> DrillRow:
    """With the last lines of what has failed."""
    guard.reach(Action.SEE_TEMPLATES)
    row = await guard.operations.drills.show(drill)
    resource = Resource(row.template.partition("/")[0])
    guard.check_found(Action.SEE_TEMPLATES, resource, Action.SEE_TEMPLATES, no_drill(drill))
    return row
