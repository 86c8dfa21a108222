"""The loop's state: Temporal knows whether the loop runs, and the database knows why it does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.payloads import OrchestratorStatus
from prebuilds.store import loop
from prebuilds.store.loop import Control
from prebuilds.temporal.connecting import described
from prebuilds.views import LoopStatus
from prebuilds.vocabulary import ORCHESTRATOR_ID

ASK_TIMEOUT = timedelta(seconds=3)
"""Limit of each call to Temporal: `status` must answer while Temporal is away or no worker runs."""


async def loop_status(recorded: Control, client: Client) -> LoopStatus:
    """Read the loop's state from Temporal and from the loop itself.

    If Temporal does not answer, the result is the recorded state, and a note says so.

    Args:
        recorded: What the database says of the loop.
    """
    try:
        async with asyncio.timeout(ASK_TIMEOUT.total_seconds()):  # rpc_timeout does not cover the connect
            found = await described(client, ORCHESTRATOR_ID, rpc_timeout=ASK_TIMEOUT)
    except RPCError as error:
        return _make_status(recorded, recorded.loop, f"Temporal does not answer ({error.status.name})")
    except (TimeoutError, RuntimeError, ValueError):  # a client that cannot connect, or whose address is invalid
        return _make_status(recorded, recorded.loop, "Temporal does not answer (it cannot be reached)")
    if found is None or found.status is not WorkflowExecutionStatus.RUNNING:
        return _make_status(recorded, None, _describe_missing_loop(recorded))
    try:
        raw = await client.get_workflow_handle(ORCHESTRATOR_ID).query("status", rpc_timeout=ASK_TIMEOUT)
    except RPCError as error:
        note = f"the loop does not answer ({error.status.name}); is a control worker running?"
        return _make_status(recorded, "running", note)
    reported = OrchestratorStatus.model_validate(raw)
    return _make_status(recorded, reported.state, _describe_ignored_signals(reported), reported)


async def recorded_loop(engine: AsyncEngine, note: str) -> LoopStatus:
    """Read the loop's recorded state from the database alone; *note* says why Temporal was not asked."""
    recorded = await loop.read_control(engine)
    return _make_status(recorded, recorded.loop, note)


def _describe_ignored_signals(reported: OrchestratorStatus) -> str | None:
    if not reported.ignored:
        return None
    more = reported.ignored_count - len(reported.ignored)
    return f"signals not understood: {'; '.join(reported.ignored)}" + (f"; and {more} before" if more > 0 else "")


def _describe_missing_loop(recorded: Control) -> str | None:
    if recorded.loop != "running":
        return None
    return "it should be running but is not: run `prebuilds start`, or wait: a control worker restarts it in minutes"


def _make_status(
    recorded: Control, state: Any, note: str | None, reported: OrchestratorStatus | None = None
) -> LoopStatus:
    """Put a status together. *state* None means that no loop runs; *reported* None, that the loop was not asked."""
    if recorded.restore_found is not None:
        restored = "the database was restored; claims and passes stop until `prebuilds restored`"
        note = f"{restored}; {note}" if note else restored
    return LoopStatus(
        state=state or ("stopped" if recorded.loop != "never_started" else "never_started"),
        cause=reported.cause if reported else recorded.stop_cause,
        last_pass_at=recorded.last_pass_at,
        passes=recorded.passes,
        paused=recorded.paused,
        paused_reason=recorded.paused_reason,
        paused_by=recorded.paused_by,
        note=note,
    )
