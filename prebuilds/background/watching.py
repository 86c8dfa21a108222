"""Watches the workspaces that people have: on a provisioner worker's own host, what has ended is noticed in a minute.

Containers end with their engine, processes by themselves. The inventory finds that, too, but runs only every ten
minutes, and a person waits. What is found is kept as a sighting of the inventory: the next sweep or inventory confirms
it, warns the owner once, and forgets it when it runs again. Nothing of a person's is started or removed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.witness import NoWitness, Witness
from prebuilds.planning.inventory import APART, Existing, Finding, compare, find_vanished
from prebuilds.provisioners.base import Locality, Provisioner
from prebuilds.store import inventory, inventory_findings
from prebuilds.store.inventory import Place
from prebuilds.store.probes import list_owned_places

logger = logging.getLogger(__name__)

WATCH_INTERVAL = timedelta(seconds=60)
LIST_TIMEOUT_S = 50.0
"""Shorter than the interval, so that one driver that hangs does not keep the others from their turn for long."""
PROBES_AT_ONCE = 16
PROBE_TIMEOUT_S = 10.0


class Watcher:
    """Watches people's workspaces on one worker's host."""

    def __init__(
        self,
        engine: AsyncEngine,
        driver: Callable[[str], Provisioner],
        queues: Sequence[str],
        host: str,
        witness: Witness | None = None,
        *,
        interval: timedelta = WATCH_INTERVAL,
        apart: timedelta = APART,
    ) -> None:
        """Make the watch of one host.

        Args:
            driver: Returns the driver with a name, the same one each time.
            host: The name of this host.
            interval: The time between two sweeps.
            apart: The least time between two sightings before the owner is warned.
        """
        self._engine = engine
        self._driver = driver
        self._queues = queues
        self._host = host
        self._witness = witness or NoWitness()
        self._interval = interval
        self._apart = apart

    async def run(self) -> None:
        """Watch until cancelled. A failed sweep is logged and repeated."""
        while True:
            await asyncio.sleep(self._interval.total_seconds())
            try:
                await self.sweep()
            except Exception as error:
                logger.warning("People's workspaces could not be watched", extra={"error": repr(error)})

    async def sweep(self) -> None:
        """Compare once what people have on this host with what runs."""
        await self._witness.contact()
        for place in await list_owned_places(self._engine, self._queues, self._host):
            try:
                driver = self._driver(place.provisioner)
                if driver.locality is Locality.HOST:
                    async with asyncio.timeout(LIST_TIMEOUT_S):
                        await self._compare(driver, place)
            except Exception as error:  # conclude nothing, and go on with the other drivers
                extra = {"provisioner": place.provisioner, "error": repr(error)}
                logger.info("A driver could not say what runs", extra=extra)

    async def _compare(self, driver: Provisioner, place: Place) -> None:
        looked_at = await inventory.read_clock(self._engine)
        items = {item.workspace_id: item for item in await driver.inventory()}
        recorded = [row for row in await inventory.read_recorded(self._engine, place, []) if row.owned]
        ids = {row.workspace_id for row in recorded}
        existing = [Existing(id, item.running, item.created_at) for id, item in items.items() if id in ids]
        existing += await probe_missing(driver, find_vanished(existing, recorded, looked_at), looked_at)
        known = [
            sighting
            for sighting in await inventory.read_sightings(self._engine, place)
            if sighting.finding is Finding.VANISHED and sighting.workspace_id in ids
        ]
        comparison = compare(existing, recorded, known, looked_at, apart=self._apart)
        if comparison.found or comparison.settled:
            await inventory.keep_sightings(self._engine, place, comparison)
        for one in [one for one in comparison.found if one.confirmed]:
            await inventory_findings.report_vanished(self._engine, place, one)


async def probe_missing(driver: Provisioner, ids: list[UUID], inspected_at: datetime) -> list[Existing]:
    """Return those of *ids* that the driver's probe does not report as gone.

    The driver has not listed them as running, but another worker may hold them.
    """
    at_once = asyncio.Semaphore(PROBES_AT_ONCE)

    async def is_gone(workspace_id: UUID) -> bool:
        async with at_once:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    return not await driver.probe(workspace_id)
            except Exception as error:  # the driver cannot say, so nothing is concluded
                logger.info(
                    "A missing workspace could not be probed",
                    extra={"workspace_id": str(workspace_id), "error": repr(error)},
                )
                return False

    answers = await asyncio.gather(*[is_gone(workspace_id) for workspace_id in ids])
    return [
        Existing(id, running=True, created_at=inspected_at) for id, gone in zip(ids, answers, strict=True) if not gone
    ]
