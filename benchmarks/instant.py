"""A provisioner whose workspaces are ready at once, or after some seconds, so that all but provisioning is measured.

python -m benchmarks.instant QUEUE [SECONDS]
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from activities.provisioning import ProvisioningActivities
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InventoryItem, Locality, Progress, Provision, Provisioned, Provisioner
from prebuilds.settings import database_url, load_settings
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.workers import worker_on

QUEUE = "bench-instant"
SLOTS = 60


class Instant:
    locality = Locality.SHARED

    def __init__(self, ready_after_s: float) -> None:
        self.ready_after_s = ready_after_s

    def validate(self, source: dict[str, Any]) -> None: ...

    def hands_over(self, source: dict[str, Any]) -> bool:
        return True

    async def plan(self, wanted: Provision) -> list[Replacement]:
        return []

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        await asyncio.sleep(self.ready_after_s)
        return Provisioned(address="http://127.0.0.1")

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        return Provisioned(address="http://127.0.0.1")

    async def stop(self, wanted: Provision, progress: Progress) -> None: ...

    async def destroy(self, wanted: Provision, progress: Progress) -> None: ...

    async def probe(self, workspace_id: UUID) -> bool:
        return True

    async def inventory(self) -> list[InventoryItem]:
        return []


async def serve(queue: str, ready_after_s: float) -> None:
    client = await connect()
    engine = create_engine(database_url(load_settings()))
    driver: Provisioner = Instant(ready_after_s)
    provisioning = ProvisioningActivities(engine, Dispatcher(engine, client), lambda _: driver, "bench")
    async with AsyncExitStack() as running:
        for pool in (True, False):
            here = provisioning_queue(queue, pool=pool, host=None)
            await running.enter_async_context(
                worker_on(client, here, activities=[provisioning.run_build], max_concurrent_activities=SLOTS)
            )
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
