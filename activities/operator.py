"""The activities of `OperatorRequest`: carry a request out at most once, and close it when nobody waits any more."""

from __future__ import annotations

from typing import Any

from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.api import PrebuildsError
from prebuilds.operations.facade import Operations
from prebuilds.operations.requests import carry_out
from prebuilds.payloads import OperatorRequest, RequestRun, parse_input
from prebuilds.store.requests import AnsweredBefore, RequestFence, end_request, fenced, record_answer, recorded_answer

READS = ("status", "list_workspaces", "show_workspace", "list_drills", "show_drill")


class OperatorActivities:
    """Activities of `OperatorRequest` on control workers."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @activity.defn
    async def operate(self, raw: Any, run: RequestRun) -> Any:
        """Carry out one request, and return the action's result.

        Every attempt of one run returns the same answer, and the action takes effect at most once, also when an attempt
        is late.

        Raises:
            PrebuildsError: The action was refused.
        """
        request = parse_input(OperatorRequest, raw, "request")
        async with heartbeating():
            if request.action in READS:
                return await carry_out(self._operations, request)
            return await self._carry_out_once(request, run)

    async def _carry_out_once(self, request: OperatorRequest, run: RequestRun) -> Any:
        engine = self._operations.context.engine
        operations = self._operations.on(fenced(engine, RequestFence(run.id, run.expires_at)))
        answer: Any
        try:
            answer = await carry_out(operations, request, requested_at=run.began_at)
        except AnsweredBefore:
            answer = await recorded_answer(engine, run.id)
        except PrebuildsError as error:
            if error.repeated:
                raise
            answer = await record_answer(engine, run.id, error)
        else:
            answer = await record_answer(engine, run.id, answer)
        if isinstance(answer, PrebuildsError):
            raise answer
        return answer

    @activity.defn
    async def end_request(self, run: RequestRun) -> Any:
        """Close a request for which nobody waits any more, so that no attempt takes effect from now on.

        Returns:
            The answer of an attempt that has ended.
        Raises:
            PrebuildsError: The refusal of an attempt. `RequestCanceled`: nothing was done. `StoreUnavailable`: an
                attempt has taken effect and died before it recorded its answer.
        """
        answer = await end_request(self._operations.context.engine, run.id)
        if isinstance(answer, PrebuildsError):
            raise answer
        return answer
