"""The reconciliation loop: start, stop, pause, resume, and asking it for a pass."""

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
from prebuilds.operations.waiting import while_served
from prebuilds.store import control, presets
from prebuilds.store.requests import AnsweredBefore
from prebuilds.views import LoopChange, LoopStatus, Reconciled
from prebuilds.vocabulary import ORCHESTRATOR_ID, check_interval
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.plain_text import check_plain

NO_CAUSE = "no cause given"


@dataclass(frozen=True, slots=True)
class LoopOperations:
    """Start, stop, pause and resume each answer with a `LoopChange`: the loop afterwards, and whether it changed."""

    context: Context

    async def status(self) -> LoopStatus:
        """The loop's state. Where Temporal does not answer within three seconds, the state that is wanted, with a
        note."""
        return await loop_status(self.context.engine, self.context.client)

    async def start(
        self, actor: Actor, interval: timedelta | None = None, *, within_s: float | None = None
    ) -> LoopChange:
        """Start the loop, or apply *interval* to the one that runs. A loop that drains is awaited first.

        Args:
            interval: Between passes, kept for later starts; None leaves it as it is.
            within_s: Seconds to wait for a loop that drains; None waits until it has ended.
        Raises:
            InvalidInput: The loop cannot keep *interval*.
            OrchestratorNotRunning: The loop drained for longer than *within_s*.
            StackUnreachable: It drains, and no control worker is there to end it.
        """
        if interval is not None:
            try:
                check_interval(interval)
            except ValueError as error:
                raise InvalidInput.field("interval", str(error)) from error
        engine, client = self.context.engine, self.context.client
        handle = client.get_workflow_handle(ORCHESTRATOR_ID)
        if (loop := await self.status()).state == "draining":
            try:
                async with asyncio.timeout(within_s):
                    with suppress(WorkflowFailureError):  # somebody has terminated it: it has ended, too
                        await self._end(handle)
            except TimeoutError:
                raise OrchestratorNotRunning(
                    f"the loop is still ending what it was at ({loop.cause})",
                    {"cause": loop.cause},
                    remedy="start it again when it has stopped",
                ) from None
        with suppress(AnsweredBefore):  # by another attempt, which may have died before it started the loop
            await record_unwritten_stop(engine, client)  # so that the new loop has a number of its own
            await control.record_start(engine, interval, actor.name)
        wanted = await control.read_control(engine)
        if wanted.loop == "stopped":  # since that attempt
            return await self._change(False)
        started = await start_orchestrator(client, orchestrator_input(wanted, self.context.settings))
        if not started and interval is not None:
            await handle.signal("set_interval", interval.total_seconds())
        return await self._change(started, interval_applied=interval is not None)

    async def stop(
        self, actor: Actor, cause: str = NO_CAUSE, *, wait: bool = False, asked_at: datetime | None = None
    ) -> LoopChange:
        """Signal the loop to stop. Nothing changes if none runs.

        Args:
            cause: Kept for logs, the result and the operator.
            wait: Return only when the loop has ended.
            asked_at: When the request was made, by Temporal's clock: a loop that began later goes on. None for now.
        Raises:
            InvalidInput: The cause has control characters. A signal sent past this method is not refused: its cause
                is escaped.
            StackUnreachable: With *wait*: no control worker is there to end the loop. The signal stays with it.
        """
        _check_words("cause", cause)
        handle = self.context.client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            stop = {"cause": cause, "by": actor.name}
            if asked_at is not None:
                stop["asked_at"] = asked_at.isoformat()
            await handle.signal("stop", stop)
        except RPCError as error:
            if not no_such_workflow(error):
                raise
            # Nothing runs, but control workers would bring a terminated loop back: record that it is not wanted.
            await control.record_stop(self.context.engine, cause, by=actor.name)
            return await self._change(False)
        if wait:
            try:
                await self._end(handle)
            except WorkflowFailureError:
                # Somebody terminated it, perhaps before it recorded the stop: then it would come back.
                await control.record_stop(self.context.engine, cause, by=actor.name)
        return await self._change(True)

    async def _end(self, handle: WorkflowHandle[Any, Any]) -> None:
        await while_served(self.context.client, handle.result(), "the loop to end")

    async def pause(self, actor: Actor, reason: str) -> LoopChange:
        """Hold every pool as it is: passes create and delete nothing. Claims go on. Paused already: nothing changes.

        Raises:
            InvalidInput: The reason is empty, or has control characters.
        """
        if not reason.strip():
            raise InvalidInput.field("reason", "is required", "say why, for whoever finds the pools held")
        _check_words("reason", reason)
        return await self._told(await control.pause(self.context.engine, actor.name, reason))

    async def resume(self, actor: Actor) -> LoopChange:
        """Let passes create and delete again. Not paused: nothing changes."""
        return await self._told(await control.resume(self.context.engine, actor.name))

    async def _told(self, changed: bool) -> LoopChange:
        """Tell the loop of a pause or a resume, and read its state meanwhile: both wait for a Temporal that is away."""
        if not changed:
            return await self._change(False)
        change, _ = await asyncio.gather(self._change(True), self.context.nudge())
        return change

    async def _change(self, changed: bool, *, interval_applied: bool = False) -> LoopChange:
        try:
            loop = await self.status()
        except PrebuildsError as error:  # the change is committed: what only looks after it must not fail it
            loop = await recorded_loop(self.context.engine, f"Temporal could not be asked ({error})")
        return LoopChange(**loop.model_dump(), changed=changed, interval_applied=interval_applied)

    async def reconcile(self, preset: str | None = None, *, wait: bool = False) -> Reconciled:
        """Ask the loop for a pass now, over one preset (an id or a path of the active version) or over all.

        Args:
            wait: Return only when that pass has ended.
        Raises:
            OrchestratorNotRunning: The loop is stopped.
            PresetNotFound: No such preset.
            StackUnreachable: With *wait*: no control worker is there to run the pass.
        """
        wanted = []
        if preset is not None:
            async with self.context.engine.connect() as connection:
                wanted = [(await presets.find_preset(connection, preset)).id]
        client = PrebuildsClient(self.context.client)
        await (client.reconcile(wanted) if wait else client.nudge(wanted))
        return Reconciled(reconciled=wait)


def _check_words(field: str, words: str) -> None:
    try:
        check_plain(words)
    except ValueError as error:
        raise InvalidInput.field(field, str(error)) from error
