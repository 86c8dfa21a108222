"""The state of the deployment over HTTP: status, snapshot, and the doctor's checks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from prebuilds.doctor import DoctorReport
from prebuilds.http import examples
from prebuilds.http.documents import PageQuery, answers
from prebuilds.http.guard import Guarded
from prebuilds.planning.policy import Action
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.views import StatusPage

router = APIRouter(prefix="/v1", tags=["status"])


@router.get(
    "/status",
    summary="The loop, and every preset's pool",
    operation_id="status",
    responses=answers(examples.STATUS),
)
async def status(guard: Guarded, query: Annotated[PageQuery, Query()]) -> StatusPage:
    """One page of the pools that the token may see, by path and version. While Temporal is away, a note says so."""
    reach = guard.reach(Action.SEE_STATUS)
    return await guard.operations.status.page(query.after, query.limit, reach=reach)


@router.get(
    "/snapshot",
    summary="The state that a pass would decide from",
    operation_id="snapshot",
    responses=answers(examples.SNAPSHOT),
)
async def snapshot(guard: Guarded) -> GlobalSnapshot:
    """All pools, at one instant."""
    guard.check(Action.SEE_SNAPSHOT)
    return await guard.operations.status.snapshot()


@router.get(
    "/doctor",
    summary="What is wrong with the installation, and what to do",
    operation_id="doctor",
    responses=answers(examples.DOCTOR),
)
async def doctor(guard: Guarded) -> DoctorReport:
    """Takes about ten seconds at most. `ok` is false when any check fails. Who asks meanwhile gets the same report."""
    guard.check(Action.SEE_DOCTOR)
    return await guard.service.examine()
