"""The reconciliation loop by a client of Temporal: start, stop, pause and resume it, and ask it for a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError

from prebuilds.api import LoopRenewed
from prebuilds.client.base import TemporalPart
from prebuilds.client.durations import seconds_of
from prebuilds.failures.temporal import asking_loop, no_control_worker
from prebuilds.payloads import OperatorRequest, OrchestratorStatus, parse_input
from prebuilds.temporal.waiting import while_served
from prebuilds.views import LoopChange
from prebuilds.vocabulary import ORCHESTRATOR_ID

RENEWALS_MAX, RENEWAL_PAUSE_S = 60, 1.0
"""How often `reconcile` repeats a request that met the loop's change to a new run (continue-as-new), and the pause
between. The change takes up to half a minute, since the loop first waits for the presets that it is reconciling."""


class LoopClient(TemporalPart):
    """The part of `PrebuildsClient` that controls the loop."""

    async def start(self, interval: timedelta | None = None, by: str = "operator") -> LoopChange:
        """Start the reconciliation loop, and keep it alive until it is stopped. A running loop goes on.

        Args:
            interval: Time between passes, applied to a running loop, too; None leaves it unchanged.
            by: Name of the person or service that asks, for the record.
        """
        request = {"action": "start", "interval_seconds": seconds_of("interval", interval), "by": by}
        return await self._change_loop(parse_input(OperatorRequest, request, "request"))

    async def stop(self, cause: str, by: str = "operator") -> LoopChange:
        """End the reconciliation loop gracefully. Nothing changes if it is stopped: the first cause stays."""
        return await self._change_loop(OperatorRequest(action="stop", reason=cause, by=by))

    async def pause(self, reason: str, by: str = "operator") -> LoopChange:
        """Pause the loop: passes create and delete nothing, claims go on. Nothing changes if it is paused."""
        return await self._change_loop(OperatorRequest(action="pause", reason=reason, by=by))

    async def resume(self, by: str = "operator") -> LoopChange:
        """Let passes create and delete again. Nothing changes if the loop is not paused."""
        return await self._change_loop(OperatorRequest(action="resume", by=by))

    async def _change_loop(self, request: OperatorRequest) -> LoopChange:
        answer: dict[str, Any] = await self._operate(request)
        return LoopChange.model_validate({field: answer[field] for field in LoopChange.model_fields if field in answer})

    async def reconcile(self, presets: Sequence[UUID] = ()) -> None:
        """Ask the loop for a pass over the given presets, or over all; return when the pass has ended.

        Raises:
            OrchestratorNotRunning: The loop is stopped, or was stopped during the wait.
            StackUnreachable: No control worker runs that could make the pass, or Temporal does not answer.
        """
        await while_served(self.temporal, self._reconcile([str(preset) for preset in presets]), "the pass")

    async def _reconcile(self, presets: list[str]) -> None:
        for _ in range(RENEWALS_MAX):
            try:
                return await self._reconcile_in_run(presets)
            except LoopRenewed:
                await asyncio.sleep(RENEWAL_PAUSE_S)
        raise no_control_worker("the loop has not started its new run in time")

    async def _reconcile_in_run(self, presets: list[str]) -> None:
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            with asking_loop():
                await handle.execute_update("reconcile", presets)
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            if isinstance(error.__cause__, asyncio.CancelledError):  # the caller was cancelled; nothing timed out
                raise error.__cause__ from None
            raise

    async def nudge(self, presets: Sequence[UUID] = ()) -> None:
        """Ask the loop for a pass over the given presets, or over all, without waiting for it.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        with asking_loop():
            await handle.signal("nudge", [str(preset) for preset in presets])

    async def loop(self) -> OrchestratorStatus:
        """Query the loop's own status.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        with asking_loop():
            return OrchestratorStatus.model_validate(await handle.query("status"))
