"""The loop over HTTP: start, stop, pause and resume it, and ask it for a pass."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import Field

from prebuilds.http import examples, upkeep_examples
from prebuilds.http.documents import RequestFields, answers
from prebuilds.http.guard import Guarded
from prebuilds.http.waiting import WAIT_MAX_S, waiting_turn
from prebuilds.payloads import OrchestratorStatus
from prebuilds.planning.policy import Action
from prebuilds.views import LoopChange, Reconciled
from prebuilds.vocabulary import Text

router = APIRouter(prefix="/v1", tags=["loop"])

DRAIN_WAIT_S = 20.0
"""How long a start waits for a loop that is draining, in seconds."""


class LoopStart(RequestFields):
    """How the loop runs."""

    interval_seconds: float | None = Field(
        None, gt=0, le=86_400, description="Seconds between passes, kept for later starts; null keeps what it is"
    )


class LoopStop(RequestFields):
    """Why the loop is stopped."""

    cause: Text = Field(description="For logs, the loop's result and whoever asks", min_length=1)
    wait: bool = Field(False, description="Answer when the loop has ended, or after 60 seconds")


class LoopPause(RequestFields):
    """Why the pools are paused."""

    reason: Text = Field(description="For whoever finds the pools held", min_length=1)


class ReconcileBody(RequestFields):
    """Which pass."""

    preset: Text | None = Field(None, description="Only this preset, by path or id; null for all")
    wait: bool = Field(False, description="Answer when that pass has ended, or after 60 seconds")


@router.get(
    "/loop",
    summary="What the loop itself says of its state",
    operation_id="loop",
    responses=answers(upkeep_examples.ORCHESTRATOR, 409, on_409="It does not run"),
)
async def loop_status(guard: Guarded) -> OrchestratorStatus:
    """With the presets that it is at. `/v1/status` has what is recorded, also of a loop that does not run."""
    guard.reach(Action.SEE_STATUS)
    return await guard.operations.loop.ask()


@router.post(
    "/loop:start",
    summary="Start the loop",
    operation_id="start_loop",
    responses=answers(examples.LOOP | {"changed": True, "interval_applied": False}, 409, 413),
)
async def start_loop(
    guard: Guarded, body: Annotated[LoopStart | None, Body(examples=[{"interval_seconds": 15}])] = None
) -> LoopChange:
    """One that runs goes on, with the interval given."""
    guard.check(Action.START_LOOP)
    seconds = None if body is None else body.interval_seconds
    interval = None if seconds is None else timedelta(seconds=seconds)
    return await guard.operations.loop.start(guard.actor, interval, within_s=DRAIN_WAIT_S)


@router.post(
    "/loop:stop",
    summary="Stop the loop",
    operation_id="stop_loop",
    responses=answers(examples.LOOP | {"state": "draining", "cause": "upgrade", "changed": True}, 413),
)
async def stop_loop(guard: Guarded, body: Annotated[LoopStop, Body(examples=[{"cause": "upgrade"}])]) -> LoopChange:
    """Gracefully. Workspaces and claims go on; nothing is refilled until it is started."""
    guard.check(Action.STOP_LOOP)
    loop = guard.operations.loop
    if body.wait:
        with waiting_turn(guard.service, guard.actor.token_id), suppress(TimeoutError):
            async with asyncio.timeout(WAIT_MAX_S):
                return await loop.stop(guard.actor, body.cause, wait=True)
    return await loop.stop(guard.actor, body.cause)


@router.post(
    "/loop:pause",
    summary="Hold every pool as it is",
    operation_id="pause_loop",
    responses=answers(examples.LOOP | {"paused": True, "paused_reason": "host is moved", "changed": True}, 413),
)
async def pause_loop(
    guard: Guarded, body: Annotated[LoopPause, Body(examples=[{"reason": "host is moved"}])]
) -> LoopChange:
    """Nothing is created or deleted. Claims go on."""
    guard.check(Action.PAUSE)
    return await guard.operations.loop.pause(guard.actor, body.reason)


@router.post(
    "/loop:resume",
    summary="Let the loop create and delete again",
    operation_id="resume_loop",
    responses=answers(examples.LOOP | {"changed": True}),
)
async def resume_loop(guard: Guarded) -> LoopChange:
    """Nothing changes if it is not paused."""
    guard.check(Action.RESUME)
    return await guard.operations.loop.resume(guard.actor)


@router.post(
    "/reconcile",
    summary="Ask for a pass now",
    operation_id="reconcile",
    responses=answers({"reconciled": False}, 404, 409, 413),
)
async def reconcile(
    guard: Guarded, body: Annotated[ReconcileBody | None, Body(examples=[{"preset": "acme/python/small"}])] = None
) -> Reconciled:
    """`reconciled` says whether that pass has ended."""
    options = body or ReconcileBody()
    preset = None
    if options.preset is None:
        guard.check(Action.RECONCILE)
    else:
        preset = await guard.preset(options.preset, Action.RECONCILE)
    if options.wait:
        with waiting_turn(guard.service, guard.actor.token_id):
            try:
                async with asyncio.timeout(WAIT_MAX_S):
                    return await guard.operations.loop.reconcile(preset, wait=True)
            except TimeoutError:
                return Reconciled(reconciled=False)
    return await guard.operations.loop.reconcile(preset)
