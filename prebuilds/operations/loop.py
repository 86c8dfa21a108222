"""The reconciliation loop: start, stop, pause and resume it, and ask it for a pass."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from prebuilds.api import InvalidInput, OrchestratorNotRunning, PrebuildsError
from prebuilds.background.relay import orchestrator_input, record_unwritten_stop, start_orchestrator
from prebuilds.client import PrebuildsClient
from prebuilds.failures.temporal import no_such_workflow
from prebuilds.operations.context import Context
from prebuilds.operations.loop_status import loop_status, recorded_loop
from prebuilds.payloads import OrchestratorStatus
from prebuilds.store import loop, presets
from prebuilds.store.requests import AnsweredBefore
from prebuilds.temporal.waiting import while_served
from prebuilds.views import LoopChange, LoopStatus, Reconciled
from prebuilds.vocabulary import ORCHESTRATOR_ID, check_interval
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.plain_text import check_plain

NO_CAUSE = "no cause given"


@dataclass(frozen=True, slots=True)
class LoopOperations:
    """Operations on the loop. Start, stop, pause and resume return the state afterwards and whether it changed."""

    context: Context

    async def status(self) -> LoopStatus:
        """Read the loop's state; if Temporal does not answer within three seconds, the recorded state with a note."""
        return await loop_status(await loop.read_control(self.context.engine), self.context.client)

    async def ask(self) -> OrchestratorStatus:
        """Ask the loop itself for its state.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        return await PrebuildsClient(self.context.client).loop()

    async def start(
        self, actor: Actor, interval: timedelta | None = None, *, within_s: float | None = None
    ) -> LoopChange:
        """Start the loop, or apply *interval* to a running loop. A draining loop is awaited first.

        Args:
            interval: Time between passes, kept for later starts; None leaves it unchanged.
            within_s: Seconds to wait for a draining loop; None waits until it has ended.
        Raises:
            InvalidInput: *interval* is outside the loop's bounds.
            OrchestratorNotRunning: The loop is still draining after *within_s*.
            StackUnreachable: The loop is draining, and no control worker runs that could end it.
        """
        if interval is not None:
            try:
                check_interval(interval)
            except ValueError as error:
                raise InvalidInput.field("interval", str(error)) from error
        engine, client = self.context.engine, self.context.client
        handle = client.get_workflow_handle(ORCHESTRATOR_ID)
        if (seen := await self.status()).state == "draining":
            try:
                async with asyncio.timeout(within_s):
                    with suppress(WorkflowFailureError):  # a terminated loop has ended, too
                        await self._await_end(handle)
            except TimeoutError:
                raise OrchestratorNotRunning(
                    f"the loop is still draining after a stop ({seen.cause})",
                    {"cause": seen.cause},
                    remedy="start it again once `prebuilds status` shows it as stopped",
                ) from None
        # An earlier attempt of this request may have recorded the start and died before it started the loop.
        with suppress(AnsweredBefore):
            await record_unwritten_stop(engine, client)  # the new loop then gets a new number
            await loop.record_start(engine, interval, actor.name)
        recorded = await loop.read_control(engine)
        if recorded.loop == "stopped":  # by a stop that came after the earlier attempt
            return await self._describe_change(False)
        started = await start_orchestrator(client, orchestrator_input(recorded, self.context.settings))
        if not started and interval is not None:
            await handle.signal("set_interval", interval.total_seconds())
        return await self._describe_change(started, interval_applied=interval is not None)

    async def stop(
        self, actor: Actor, cause: str = NO_CAUSE, *, wait: bool = False, requested_at: datetime | None = None
    ) -> LoopChange:
        """Signal the loop to stop. Nothing changes if no loop runs.

        Args:
            cause: The reason, kept for logs, the loop's result and operators.
            wait: Return only when the loop has ended.
            requested_at: Time of the request by Temporal's clock; a loop that started later goes on. None for now.
        Raises:
            InvalidInput: *cause* has control characters. (The loop itself accepts any cause and escapes it.)
            StackUnreachable: With *wait*: no control worker runs that could end the loop. The signal stays with the
                loop.
        """
        _check_text("cause", cause)
        handle = self.context.client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            stop = {"cause": cause, "by": actor.name}
            if requested_at is not None:
                stop["asked_at"] = requested_at.isoformat()
            await handle.signal("stop", stop)
        except RPCError as error:
            if not no_such_workflow(error):
                raise
            # No loop runs, but control workers restart a terminated loop unless a stop is recorded.
            await loop.record_stop(self.context.engine, cause, by=actor.name)
            return await self._describe_change(False)
        if wait:
            try:
                await self._await_end(handle)
            except WorkflowFailureError:
                # Somebody terminated the loop, perhaps before it recorded the stop. Without the record it is restarted.
                await loop.record_stop(self.context.engine, cause, by=actor.name)
        return await self._describe_change(True)

    async def _await_end(self, handle: WorkflowHandle[Any, Any]) -> None:
        await while_served(self.context.client, handle.result(), "the loop to end")

    async def pause(self, actor: Actor, reason: str) -> LoopChange:
        """Pause the loop: passes create and delete nothing, claims go on. Nothing changes if it is paused.

        Raises:
            InvalidInput: The reason is empty, or has control characters.
        """
        if not reason.strip():
            raise InvalidInput.field("reason", "is required", "say why, for whoever finds the pools paused")
        _check_text("reason", reason)
        return await self._apply_pause_change(await loop.pause(self.context.engine, actor.name, reason))

    async def resume(self, actor: Actor) -> LoopChange:
        """Let passes create and delete again. Nothing changes if the loop is not paused."""
        return await self._apply_pause_change(await loop.resume(self.context.engine, actor.name))

    async def _apply_pause_change(self, changed: bool) -> LoopChange:
        """Nudge the loop after a pause or resume and read its state. Both run at once: each may wait for Temporal."""
        if not changed:
            return await self._describe_change(False)
        change, _ = await asyncio.gather(self._describe_change(True), self.context.nudge())
        return change

    async def _describe_change(self, changed: bool, *, interval_applied: bool = False) -> LoopChange:
        try:
            loop = await self.status()
        except PrebuildsError as error:  # the change is committed, so a failed status must not fail the request
            loop = await recorded_loop(self.context.engine, f"could not ask Temporal ({error})")
        return LoopChange(**loop.model_dump(), changed=changed, interval_applied=interval_applied)

    async def reconcile(self, preset: str | None = None, *, wait: bool = False) -> Reconciled:
        """Ask the loop for a pass now.

        Args:
            preset: Id or path of a preset of an active version; None for all presets.
            wait: Return only when that pass has ended.
        Raises:
            OrchestratorNotRunning: The loop is stopped.
            PresetNotFound: The preset does not exist.
            StackUnreachable: With *wait*: no control worker runs that could make the pass.
        """
        preset_ids = []
        if preset is not None:
            async with self.context.engine.connect() as connection:
                preset_ids = [(await presets.find_preset(connection, preset)).id]
        client = PrebuildsClient(self.context.client)
        await (client.reconcile(preset_ids) if wait else client.nudge(preset_ids))
        return Reconciled(reconciled=wait)


def _check_text(field: str, text: str) -> None:
    """Raise `InvalidInput` about *field* if *text* has control characters."""
    try:
        check_plain(text)
    except ValueError as error:
        raise InvalidInput.field(field, str(error)) from error
