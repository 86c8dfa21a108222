"""Rollouts over HTTP: list and show them, pause, resume and undo."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from prebuilds.http import examples
from prebuilds.http.documents import TemplateQuery, answers
from prebuilds.http.guard import Guarded
from prebuilds.http.templates import Template
from prebuilds.planning.policy import Action
from prebuilds.views.rollouts import RolloutPage, RolloutRow

router = APIRouter(prefix="/v1", tags=["rollouts"])
_ANSWERS = answers(examples.ROLLOUT, 404)


@router.get(
    "/rollouts",
    summary="List rollouts",
    operation_id="list_rollouts",
    responses=answers({"rollouts": [examples.ROLLOUT | {"pools": []}], "next": None}, 404, on_404="No such template"),
)
async def list_rollouts(guard: Guarded, query: Annotated[TemplateQuery, Query()]) -> RolloutPage:
    """The rollouts of all templates that the token may see, newest first."""
    reach = guard.reach(Action.SEE_TEMPLATES)
    page = await guard.operations.rollouts.list(query.template, reach=reach, limit=query.limit, after=query.after)
    return RolloutPage(rollouts=page.rows, next=page.next)


@router.get(
    "/templates/{template}/rollout",
    summary="Show a template's newest rollout",
    operation_id="show_rollout",
    responses=_ANSWERS,
)
async def show_rollout(guard: Guarded, template: Template) -> RolloutRow:
    """With the pools that it replaces, as they are now."""
    return await guard.operations.rollouts.show(await guard.template(template, Action.SEE_TEMPLATES))


@router.post(
    "/templates/{template}/rollout:pause",
    summary="Pause a rollout",
    operation_id="pause_rollout",
    responses=_ANSWERS,
)
async def pause_rollout(guard: Guarded, template: Template) -> RolloutRow:
    """The new version gets no more prebuilds; what claims take is made anew from the one before."""
    found = await guard.template(template, Action.CONTROL_ROLLOUT)
    return await guard.operations.rollouts.pause(guard.actor, found)


@router.post(
    "/templates/{template}/rollout:resume",
    summary="Resume a rollout",
    operation_id="resume_rollout",
    responses=_ANSWERS,
)
async def resume_rollout(guard: Guarded, template: Template) -> RolloutRow:
    """It goes on from where it is."""
    found = await guard.template(template, Action.CONTROL_ROLLOUT)
    return await guard.operations.rollouts.resume(guard.actor, found)


@router.post(
    "/templates/{template}/rollout:undo",
    summary="Undo a rollout",
    operation_id="undo_rollout",
    responses=_ANSWERS,
)
async def undo_rollout(guard: Guarded, template: Template) -> RolloutRow:
    """The version from which the newest rollout began becomes active again. The way back is a rollout of its own."""
    found = await guard.template(template, Action.CONTROL_ROLLOUT)
    return await guard.operations.rollouts.undo(guard.actor, found)
