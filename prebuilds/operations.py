"""What operators do, in one place: the CLI calls it beside the database, services through a workflow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput, PrebuildsError, PresetNotFound
from prebuilds.client import PrebuildsClient
from prebuilds.dispatch import Dispatcher, orchestrator_input, start_orchestrator
from prebuilds.payloads import (
    ORCHESTRATOR_ID,
    OperatorRequest,
    OrchestratorStatus,
    ReleaseResult,
    build_workflow_id,
)
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.settings import Settings
from prebuilds.store import control, workspaces
from prebuilds.store.control import Control
from prebuilds.store.status import read_snapshot, read_status
from prebuilds.views import CancelResult, JobFilter, JobRow, LoopStatus, SystemStatus, WorkspaceDetails, WorkspaceRow

ASK_TIMEOUT = timedelta(seconds=3)
"""For a question to the loop: `status` must answer at 3 a.m., also while no worker does."""


@dataclass(frozen=True, slots=True)
class Started:
    """What `start` did."""

    started: bool
    """False: it was running already."""
    interval_applied: bool


@dataclass(frozen=True, slots=True)
class Operations:
    """Each method is one operation. Bad input raises a typed error before anything is written."""

    engine: AsyncEngine
    client: Client
    dispatcher: Dispatcher
    settings: Settings

    async def status(self) -> SystemStatus:
        return SystemStatus(
            loop=await self.loop(), presets=await read_status(self.engine, enabled=self.settings.enabled)
        )

    async def snapshot(self) -> GlobalSnapshot:
        return await read_snapshot(self.engine, enabled=self.settings.enabled)

    async def loop(self) -> LoopStatus:
        """Whether the loop runs, by Temporal; why it does not, by the database."""
        wanted = await control.read_control(self.engine)
        handle = self.client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            description = await handle.describe(rpc_timeout=ASK_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return _loop(wanted, None, None)
            return _loop(wanted, None, f"Temporal does not answer ({error.status.name})")
        if description.status is not WorkflowExecutionStatus.RUNNING:
            return _loop(wanted, None, None)
        try:
            raw = await handle.query("status", rpc_timeout=ASK_TIMEOUT)
        except RPCError as error:
            return _loop(wanted, "running", f"the loop does not answer ({error.status.name}); is a worker running?")
        said = OrchestratorStatus.model_validate(raw)
        note = f"signals not understood: {'; '.join(said.ignored)}" if said.ignored else None
        return _loop(wanted, said.state, note, said)

    async def start(self, interval: timedelta | None = None) -> Started:
        """Start the loop, or apply *interval* to the one that runs; one that drains is awaited first."""
        handle = self.client.get_workflow_handle(ORCHESTRATOR_ID)
        if (await self.loop()).state == "draining":
            await handle.result()
        await control.record_start(self.engine, interval)
        wanted = await control.read_control(self.engine)
        started = await start_orchestrator(self.client, orchestrator_input(wanted, self.settings))
        if not started and interval is not None:
            await handle.signal("set_interval", interval.total_seconds())
        return Started(started=started, interval_applied=interval is not None)

    async def stop(self, cause: str, *, wait: bool = False) -> bool:
        """Signal the loop to stop. Returns whether it was running.

        Args:
            cause: Kept for logs, the result and the operator.
            wait: Return only when the loop has ended.
        """
        handle = self.client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            await handle.signal("stop", cause)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            # Nothing runs, but a terminated loop would be brought back: write down that it is not wanted.
            await control.record_stop(self.engine, cause)
            return False
        if wait:
            await handle.result()
        return True

    async def pause(self, reason: str, by: str) -> bool:
        if not reason.strip():
            raise InvalidInput.field("reason", "say why, for whoever finds the pools held")
        return await control.pause(self.engine, by, reason)

    async def resume(self, by: str) -> bool:
        resumed = await control.resume(self.engine, by)
        if resumed:
            await self._nudge_all()
        return resumed

    async def reconcile(self, preset: str | None = None, *, wait: bool = False) -> None:
        """Nudge the loop, for one preset (an id or a path of the active version) or for all.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
            PresetNotFound: No such preset.
        """
        presets = [await self._preset_id(preset)] if preset is not None else []
        client = PrebuildsClient(self.client)
        if wait:
            await client.reconcile(presets)
        else:
            await client.nudge(presets)

    async def release(self, workspace: str) -> ReleaseResult:
        workspace_id, build_id = await workspaces.release_workspace(self.engine, workspace)
        self.dispatcher.start_builds([build_id])
        return ReleaseResult(workspace_id=workspace_id, build_id=build_id)

    async def list_workspaces(
        self, *, owner: str | None = None, preset: str | None = None, prebuilt: bool = False
    ) -> list[WorkspaceRow]:
        return await workspaces.list_workspaces(self.engine, owner=owner, preset=preset, prebuilt=prebuilt)

    async def show_workspace(self, workspace: str) -> WorkspaceDetails:
        return await workspaces.show_workspace(self.engine, workspace)

    async def list_jobs(self, wanted: JobFilter) -> list[JobRow]:
        return await workspaces.list_jobs(self.engine, wanted)

    async def cancel_jobs(self, wanted: JobFilter, *, dry_run: bool = False) -> CancelResult:
        """Cancel builds; at least one filter must be given, so that nobody cancels everything by a slip."""
        if wanted.empty:
            raise InvalidInput.field("filter", "give at least one of initiator, status and template")
        done = await workspaces.cancel_jobs(self.engine, wanted, dry_run=dry_run)
        for build_id in done.running:
            try:
                await self.client.get_workflow_handle(build_workflow_id(build_id)).cancel()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:  # the relay starts it again, and it ends as canceled
                    raise
        return done.result

    async def request(self, request: OperatorRequest) -> Any:
        """Carry out what a service asked for through Temporal; returns what crosses back as JSON."""
        match request.action:
            case "status":
                return (await self.status()).model_dump(mode="json")
            case "start":
                seconds = request.interval_seconds
                done = await self.start(None if seconds is None else timedelta(seconds=seconds))
                return {"started": done.started}
            case "stop":
                return {"stopping": await self.stop(request.reason or "no cause given")}
            case "pause":
                return {"changed": await self.pause(request.reason or "", request.by)}
            case "resume":
                return {"changed": await self.resume(request.by)}
            case "release":
                if request.workspace is None:
                    raise InvalidInput.field("workspace", "is required, as owner/name or id")
                return (await self.release(request.workspace)).model_dump(mode="json")

    async def _preset_id(self, preset: str) -> UUID:
        for item in (await self.snapshot()).presets:
            if preset in (str(item.preset.id), item.preset.path) and (item.preset.active or preset != item.preset.path):
                return item.preset.id
        raise PresetNotFound(f"no preset {preset}; see `prebuilds status`", {"preset": "does not exist"})

    async def _nudge_all(self) -> None:
        with suppress(PrebuildsError):  # a lost nudge costs one interval
            await PrebuildsClient(self.client).nudge()


def _loop(wanted: Control, state: Any, note: str | None, said: OrchestratorStatus | None = None) -> LoopStatus:
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
