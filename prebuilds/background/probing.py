"""Idle prebuilds are probed: in every provisioner worker, those that it can reach.

Healthy ones cost no write. One that fails twice in a row can no longer be claimed, and its preset is nudged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.witness import NoWitness, Witness
from prebuilds.provisioners.base import NotMadeHere, Provisioner
from prebuilds.store.probes import Idle, count_probe_failure, forget_probe_failures, list_idle

logger = logging.getLogger(__name__)

PROBE_INTERVAL = timedelta(seconds=60)
PROBE_TIMEOUT_S = 10.0
"""More than a driver gives a workspace to answer (at most 8 s). What takes longer is the driver's engine, or its disk:
that it hangs says nothing about the workspace, and else a whole pool would be replaced for it."""
PROBES_AT_ONCE = 16


class Prober:
    def __init__(
        self,
        engine: AsyncEngine,
        dispatcher: Dispatcher,
        driver: Callable[[str], Provisioner],
        queues: Sequence[str],
        host: str,
        witness: Witness | None = None,
        interval: timedelta = PROBE_INTERVAL,
    ) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._driver = driver
        self._queues = queues
        self._host = host
        self._witness = witness or NoWitness()
        self._interval = interval
        self._unprobed: set[UUID] = set()
        """Idle prebuilds that could not be asked at the last sweep: each is told once, not at every sweep."""

    async def run(self) -> None:
        """Probe until cancelled. A failed sweep is logged and repeated."""
        while True:
            await asyncio.sleep(self._interval.total_seconds())
            try:
                await self.sweep()
            except Exception as error:
                logger.warning("A sweep of probes failed and will be repeated", extra={"error": repr(error)})

    async def sweep(self) -> None:
        """Ask each idle prebuild once."""
        await self._witness.contact()
        idle = await list_idle(self._engine, self._queues, self._host)
        at_once = asyncio.Semaphore(PROBES_AT_ONCE)

        async def ask(one: Idle) -> bool | None:
            async with at_once:
                return await self._ready(one)

        answers = list(zip(idle, await asyncio.gather(*[ask(one) for one in idle]), strict=True))
        self._unprobed = {one.workspace_id for one, ready in answers if ready is None}
        recovered = [one.workspace_id for one, ready in answers if ready and one.failing]
        if recovered:
            await forget_probe_failures(self._engine, recovered)
        for one, ready in answers:
            if ready is False:
                await self._failed(one)

    async def _ready(self, one: Idle) -> bool | None:
        """Whether it answers; None when nobody can tell, which says nothing about the prebuild."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await self._driver(one.provisioner).probe(one.workspace_id)
        except Exception as error:
            # A prebuild that another worker has made stays out of reach for as long as it is idle: no news after once.
            elsewhere = isinstance(error, NotMadeHere)
            level = logging.DEBUG if elsewhere or one.workspace_id in self._unprobed else logging.WARNING
            logger.log(
                level,
                "A prebuild could not be probed",
                extra={"workspace_id": str(one.workspace_id), "error": repr(error)},
            )
            return None

    async def _failed(self, one: Idle) -> None:
        if await count_probe_failure(self._engine, one.workspace_id, apart=self._interval / 2):
            logger.warning(
                "A prebuild is no longer ready and is replaced", extra={"workspace_id": str(one.workspace_id)}
            )
            self._dispatcher.nudge([one.preset_id])
