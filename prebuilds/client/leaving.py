"""Gives up a claim whose caller has left and whose id nobody else has: the claim is cancelled, and what it has won
nevertheless is released."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from prebuilds.api import PrebuildsError, StackUnreachable
from prebuilds.failures.temporal import is_failed_connect, no_such_workflow
from prebuilds.payloads import OperatorRequest
from prebuilds.temporal.connecting import operate

GIVE_UP_FOR_S = 60.0
"""Limit of giving up, from the cancellation until the workspaces are released. It may run in the background, when the
caller no longer waits."""


async def give_up(
    client: Client, workflow_id: str, starting: asyncio.Task[Any], claim_ids: Sequence[str], by: str
) -> bool:
    """Cancel a claim, wait until it has ended, and release what it has won nevertheless.

    The result of its workflow does not say whether the claim has won. If the cancellation arrives between a step and
    the record of that step, the workflow starts again and ends as cancelled although the step's transaction has
    committed. Therefore a worker asks the database.

    Args:
        starting: The start of the workflow. It is awaited, because the start may have arrived and only its reply may be
            lost.
        claim_ids: The claim's id, or the ids of a batch's members.
        by: Who asked for the claim and now releases it.
    Returns:
        True if it is certain that nothing is left of the claim. If False, the claim may have won, and the caller needs
        its id.
    """
    try:
        async with asyncio.timeout(GIVE_UP_FOR_S):
            with suppress(StackUnreachable):
                await starting
            handle = client.get_workflow_handle(workflow_id)
            if await _cancel_before_begin(handle):
                return True
            with suppress(WorkflowFailureError):
                await handle.result()
            await operate(client, OperatorRequest(action="release_claims", claim_ids=list(claim_ids), by=by))
            return True
    except (PrebuildsError, RPCError, TimeoutError):
        return False
    except RuntimeError as error:
        if not is_failed_connect(error):
            raise
        return False


async def _cancel_before_begin(handle: WorkflowHandle[Any, Any]) -> bool:
    """Cancel a claim. Returns True if no worker had begun it: a worker that takes it up later then claims nothing."""
    try:
        await handle.cancel()
    except RPCError as error:
        if no_such_workflow(error):  # the claim has ended
            return False
        raise
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            return False
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return True
    return False
