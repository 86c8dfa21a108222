"""Giving up a claim whose caller has left and whose id nobody else has: it takes nothing, or what it has won is
released."""

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
"""How long giving up may take, in the background when the caller no longer waits: the claim ends, and its workspaces
are released."""


async def give_up(
    client: Client, workflow_id: str, starting: asyncio.Task[Any], claim_ids: Sequence[str], by: str
) -> bool:
    """Cancel a claim, wait until it has ended, and release what it has won all the same.

    The end of its workflow does not say whether it has won: when a cancellation comes between a step and the step's
    record, the workflow begins again and ends as cancelled, though the step's transaction has won. So a worker asks the
    database.

    Args:
        starting: The start of the workflow. It is awaited, since perhaps only the reply to it was lost.
        claim_ids: The claim's id, or the ids of a batch's members.
        by: Who asked for the claim, and now releases it.
    Returns:
        Whether it is certain that nothing is left of the claim. If not, the caller must be told its id, since it may
        have won.
    """
    try:
        async with asyncio.timeout(GIVE_UP_FOR_S):
            with suppress(StackUnreachable):
                await starting
            handle = client.get_workflow_handle(workflow_id)
            if await _is_canceled_unbegun(handle):
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


async def _is_canceled_unbegun(handle: WorkflowHandle[Any, Any]) -> bool:
    """Cancel a claim. Returns whether no worker had begun it: then it takes nothing, whenever a worker comes."""
    try:
        await handle.cancel()
    except RPCError as error:
        if no_such_workflow(error):  # it has ended
            return False
        raise
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            return False
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return True
    return False
