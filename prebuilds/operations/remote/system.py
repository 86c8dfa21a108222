"""The loop, the status, and what is wrong, over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from prebuilds.api import OrchestratorNotRunning
from prebuilds.operations.remote.base import Remote
from prebuilds.remote import routes
from prebuilds.views import InventoryReport, LoopChange, Reconciled, StatusPage, SystemStatus
from prebuilds.vocabulary.actors import Actor

if TYPE_CHECKING:
    from prebuilds.doctor import DoctorReport
    from prebuilds.planning.snapshot import GlobalSnapshot

STATUS_ROWS = 10_000
"""Rows that are asked for at once; a server answers with as many as it can."""


class RemoteLoop(Remote):
    """As `LoopOperations`. A server holds an answer for a minute at most, and is asked again after that."""

    async def start(
        self, actor: Actor, interval: timedelta | None = None, *, within_s: float | None = None
    ) -> LoopChange:
        seconds = None if interval is None else interval.total_seconds()
        while True:
            try:
                return await self.transport.ask(routes.START_LOOP, LoopChange, interval_seconds=seconds)
            except OrchestratorNotRunning:  # it is draining, and the server has waited
                if within_s is not None:
                    raise

    async def stop(self, actor: Actor, cause: str, *, wait: bool = False) -> LoopChange:
        first = done = await self.transport.ask(routes.STOP_LOOP, LoopChange, cause=cause, wait=wait)
        while wait and done.state not in ("stopped", "never_started"):
            done = await self.transport.ask(routes.STOP_LOOP, LoopChange, cause=cause, wait=True)
        return done.model_copy(update={"changed": first.changed})

    async def pause(self, actor: Actor, reason: str) -> LoopChange:
        return await self.transport.ask(routes.PAUSE_LOOP, LoopChange, reason=reason)

    async def resume(self, actor: Actor) -> LoopChange:
        return await self.transport.ask(routes.RESUME_LOOP, LoopChange)

    async def reconcile(self, preset: str | None = None, *, wait: bool = False) -> Reconciled:
        done = await self.transport.ask(routes.RECONCILE, Reconciled, preset=preset, wait=wait)
        while wait and not done.reconciled:
            done = await self.transport.ask(routes.RECONCILE, Reconciled, preset=preset, wait=True)
        return done


class RemoteStatus(Remote):
    """As `StatusOperations`."""

    async def read(self) -> SystemStatus:
        page = await self._page(None)
        first, presets = page, [*page.presets]
        while page.next is not None:
            page = await self._page(page.next)
            presets += page.presets
        return SystemStatus(deployment_id=first.deployment_id, loop=first.loop, presets=presets)

    async def snapshot(self) -> GlobalSnapshot:
        from prebuilds.planning.snapshot import GlobalSnapshot

        return await self.transport.ask(routes.SNAPSHOT, GlobalSnapshot)

    async def _page(self, after: str | None) -> StatusPage:
        return await self.transport.ask(routes.STATUS, StatusPage, limit=STATUS_ROWS, after=after)


class RemoteInventory(Remote):
    """As `InventoryOperations`."""

    async def compare(self) -> InventoryReport:
        return await self.transport.ask(routes.INVENTORY, InventoryReport)

    async def fix(self, actor: Actor) -> InventoryReport:
        return await self.transport.ask(routes.INVENTORY, InventoryReport, fix=True)


class RemoteDoctor(Remote):
    """As `DoctorOperations`."""

    async def examine(self) -> DoctorReport:
        from prebuilds.doctor import DoctorReport

        return await self.transport.ask(routes.DOCTOR, DoctorReport)
