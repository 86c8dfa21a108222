"""The loop's state: Temporal knows whether it runs, the database why it does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.payloads import OrchestratorStatus
from prebuilds.store import control
from prebuilds.store.control import Control
from prebuilds.temporal.connecting import described
from prebuilds.views import LoopStatus
from prebuilds.vocabulary import ORCHESTRATOR_ID

ASK_TIMEOUT = timedelta(seconds=3)
"""Limit of each call to Temporal: `status` must answer at 3 a.m., also while no worker does."""


async def loop_status(engine: AsyncEngine, client: Client) -> LoopStatus:
    """The loop's state, from Temporal and from the loop itself.

    Where Temporal does not answer, it is the state that is wanted, and a note says so.
    """
    wanted = await control.read_control(engine)
    try:
        async with asyncio.timeout(ASK_TIMEOUT.total_seconds()):  # the call's own does not cover the connecting
            found = await described(client, ORCHESTRATOR_ID, rpc_timeout=ASK_TIMEOUT)
    except RPCError as error:
        return _loop(wanted, wanted.loop, f"Temporal does not answer ({error.status.name})")
    except (TimeoutError, RuntimeError, ValueError):  # a client that cannot connect, or has no such address
        return _loop(wanted, wanted.loop, "Temporal does not answer (it cannot be reached)")
    if found is None or found.status is not WorkflowExecutionStatus.RUNNING:
        return _loop(wanted, None, _gone(wanted))
    try:
        raw = await client.get_workflow_handle(ORCHESTRATOR_ID).query("status", rpc_timeout=ASK_TIMEOUT)
    except RPCError as error:
        return _loop(wanted, "running", f"the loop does not answer ({error.status.name}); is a worker running?")
    said = OrchestratorStatus.model_validate(raw)
    note = _ignored(said)
    return _loop(wanted, said.state, note, said)


async def recorded_loop(engine: AsyncEngine, note: str) -> LoopStatus:
    """The loop's state by the database alone: the one that is wanted. *note* says why nobody else was asked."""
    wanted = await control.read_control(engine)
    return _loop(wanted, wanted.loop, note)


def _ignored(said: OrchestratorStatus) -> str | None:
    """What to say of signals that the loop has not understood; None for nothing."""
    if not said.ignored:
        return None
    more = said.ignored_count - len(said.ignored)
    return f"signals not understood: {'; '.join(said.ignored)}" + (f"; and {more} before" if more > 0 else "")


def _gone(wanted: Control) -> str | None:
    if wanted.loop != "running":
        return None
    return (
        "it is wanted, and does not run: `prebuilds start` starts it, as an enabled control worker does within minutes"
    )


def _loop(wanted: Control, state: Any, note: str | None, said: OrchestratorStatus | None = None) -> LoopStatus:
    if wanted.restore_found is not None:
        restored = "the database was restored; claims and passes stop until `prebuilds restored`"
        note = f"{restored}; {note}" if note else restored
    return LoopStatus(
        state=state or ("stopped" if wanted.loop != "never_started" else "never_started"),
        cause=said.cause if said else wanted.stop_cause,
        last_pass_at=wanted.last_pass_at,
        passes=wanted.passes,
        paused=wanted.paused,
        paused_reason=wanted.paused_reason,
        paused_by=wanted.paused_by,
        note=note,
    )
