"""Probes idle prebuilds. Every provisioner worker probes those that it can reach.

A healthy prebuild costs no write. A prebuild whose probe fails twice in a row can no longer be claimed, and its preset
is nudged.
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
"""Longer than a driver gives a workspace to answer, which is at most 8 s. A probe that takes longer hangs in the
driver's engine or on a disk. That says nothing about the workspace, and must not have a whole pool replaced."""
PROBES_AT_ONCE = 16


class Prober:
    """Probes the idle prebuilds of one worker's queues and host."""

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
        """Idle prebuilds that could not be probed in the last sweep. The warning about one is logged once, not in every
        sweep."""

    async def run(self) -> None:
        """Probe until cancelled. A failed sweep is logged and repeated."""
        while True:
            await asyncio.sleep(self._interval.total_seconds())
            try:
                await self.sweep()
            except Exception as error:
                logger.warning("A sweep of probes failed and will be repeated", extra={"error": repr(error)})

    async def sweep(self) -> None:
        """Probe each idle prebuild once."""
        await self._witness.contact()
        idle = await list_idle(self._engine, self._queues, self._host)
        at_once = asyncio.Semaphore(PROBES_AT_ONCE)

        async def probe(one: Idle) -> bool | None:
            async with at_once:
                return await self._is_ready(one)

        answers = list(zip(idle, await asyncio.gather(*[probe(one) for one in idle]), strict=True))
        self._unprobed = {one.workspace_id for one, ready in answers if ready is None}
        recovered = [one.workspace_id for one, ready in answers if ready and one.failing]
        if recovered:
            await forget_probe_failures(self._engine, recovered)
        for one, ready in answers:
            if ready is False:
                await self._count_failure(one)

    async def _is_ready(self, one: Idle) -> bool | None:
        """Whether the prebuild answers; None when it cannot be probed, which says nothing about the prebuild."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await self._driver(one.provisioner).probe(one.workspace_id)
        except Exception as error:
            # A prebuild that another worker has made stays out of reach for as long as it is idle: that is no warning.
            elsewhere = isinstance(error, NotMadeHere)
            level = logging.DEBUG if elsewhere or one.workspace_id in self._unprobed else logging.WARNING
            logger.log(
                level,
                "A prebuild could not be probed",
                extra={"workspace_id": str(one.workspace_id), "error": repr(error)},
            )
            return None

    async def _count_failure(self, one: Idle) -> None:
        """Record a failed probe. After the second one in a row, have the prebuild replaced."""
        if await count_probe_failure(self._engine, one.workspace_id, apart=self._interval / 2):
            logger.warning(
                "A prebuild is no longer ready and is replaced", extra={"workspace_id": str(one.workspace_id)}
            )
            self._dispatcher.nudge([one.preset_id])
