"""The decisions behind a claim, and the queue, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from prebuilds.api import ClaimNotFound
from prebuilds.http import upkeep_examples
from prebuilds.http.claim_access import find_claim
from prebuilds.http.claims import IN_PATH, AddressedClaim
from prebuilds.http.documents import PageQuery, answers
from prebuilds.http.guard import Guarded
from prebuilds.planning.policy import Action, may
from prebuilds.views import ClaimExplanation, WaitingPage

router = APIRouter(prefix="/v1", tags=["claims"])


class WaitingQuery(PageQuery):
    """Whose queue."""

    preset: str | None = Field(None, description="Only claims of this preset, by path or id")


@router.get(
    "/claims/{claim_id}/explain",
    summary="Explain the outcome of a claim",
    operation_id="explain_claim",
    responses=answers(upkeep_examples.CLAIM_EXPLAINED, 404),
    openapi_extra=IN_PATH,
)
async def explain_claim(request: Request, guard: Guarded, claim_id: AddressedClaim) -> ClaimExplanation:
    """The recorded decisions about it, in order."""
    try:
        await find_claim(request, guard.service, guard.actor, claim_id, Action.SEE_CLAIM)
    except ClaimNotFound:
        if not may(guard.actor, Action.SEE_CLAIM):  # events may tell of it nevertheless
            raise
    return await guard.operations.explain.claim(claim_id)


@router.get(
    "/waiting",
    summary="List the claims that wait",
    operation_id="list_waiting",
    responses=answers({"waiting": [upkeep_examples.WAITING], "next": None}, 404, on_404="No such preset"),
)
async def list_waiting(guard: Guarded, query: Annotated[WaitingQuery, Query()]) -> WaitingPage:
    """By preset, and then in the order in which they are served."""
    if query.preset is None:
        guard.check(Action.SEE_STATUS)
        preset = None
    else:
        preset = await guard.preset(query.preset, Action.SEE_STATUS)
    page = await guard.operations.explain.waiting(preset, limit=query.limit, after=query.after)
    return WaitingPage(waiting=page.rows, next=page.next)
