"""A claim whose caller has left, and whose id nobody else was told: it takes nothing, or gives back what it has won."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from prebuilds.api import PrebuildsError, StackUnreachable
from prebuilds.payloads import OperatorRequest
from prebuilds.temporal.connecting import is_failed_connect, no_such_workflow, operate

GIVE_UP_FOR_S = 60.0
"""For the claim to end and its workspaces to be released, behind the back of a caller who does not wait for it."""


async def give_up(
    client: Client, workflow_id: str, starting: asyncio.Task[Any], claim_ids: Sequence[str], by: str
) -> bool:
    """Cancel a claim, wait until it has ended, and release what it has won all the same.

    How it ended does not tell: when a cancellation comes between a step and its record, the workflow begins again and
    ends as cancelled, though the step's transaction has won. So a worker looks into the database.

    Args:
        starting: Its start, which is awaited: what has been lost may be only the reply.
        claim_ids: Its id, or those of its members.
        by: Who asked for it, and so lets it go.
    Returns:
        Whether it is certain that nothing is left of it. Otherwise its id is to be told: it may have won.
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
    """Cancel a claim. Returns whether no worker had begun with it, so that it takes nothing, whenever one comes."""
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
