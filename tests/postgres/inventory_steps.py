"""A host with its driver: runs builds and inventories there, and creates things that are not recorded."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.builds import BuildOutcome
from activities.inventory import InspectPlace, InventoryActivities
from activities.provisioning import ProvisioningActivities
from prebuilds.background.dispatch import Dispatcher
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit.host import host_id
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.settings import Orphans
from prebuilds.store.inventory import Place
from prebuilds.store.inventory_findings import REMOVAL_NUMBER
from prebuilds.views import InventoryRow
from prebuilds.vocabulary import PROVISIONER_QUEUE, build_id_of
from tests.builders import SOURCE
from tests.identities import DEPLOYMENT, WHO, knowing
from tests.postgres.pool_steps import Workflows
from tests.rows import one

NOW = timedelta(0)


def silent(_: str) -> None: ...


class Host:
    """One host: its driver, builds and inventories, run as a provisioner worker on it runs them."""

    def __init__(self, engine: AsyncEngine, folder: Path) -> None:
        self.engine = engine
        self.id = host_id(folder)
        self.driver = ProcessProvisioner(folder, DEPLOYMENT)
        self.workflows = Workflows()
        self.dispatcher = Dispatcher(engine, cast("Client", self.workflows))
        self.place = Place("process", self.id, [PROVISIONER_QUEUE])

    async def build(self, workspace_id: UUID) -> None:
        """Run the workspace's latest build, which must succeed."""
        assert (await self.try_build(workspace_id)).error is None

    async def try_build(self, workspace_id: UUID) -> BuildOutcome:
        """Run the workspace's latest build, which may fail."""
        latest = await one(self.engine, "SELECT latest_build FROM workspaces WHERE id = :id", id=workspace_id)
        activities = ProvisioningActivities(self.engine, self.dispatcher, lambda _: self.driver, self.id)
        build_id = build_id_of(workspace_id, latest.latest_build)
        outcome: BuildOutcome = await ActivityEnvironment().run(activities.run_build, build_id)
        return outcome

    async def look(
        self,
        *,
        fix: bool = True,
        young: timedelta = NOW,
        driver: Any = None,
        place: Place | None = None,
        orphans: Orphans = "remove",
    ) -> list[InventoryRow]:
        """Run one inventory. Two in a row count as two that are a minute apart."""
        activities = InventoryActivities(
            self.engine,
            self.dispatcher,
            lambda _: driver or self.driver,
            self.id,
            orphans=orphans,
            young=young,
            apart=NOW,
        )
        report = await ActivityEnvironment().run(activities.inspect_place, InspectPlace(place or self.place, fix))
        await self.dispatcher.drain()
        assert report.omitted == 0
        return list(report.findings)

    async def runs(self, workspace_id: UUID) -> bool:
        return {item.workspace_id: item.running for item in await self.driver.inventory()}.get(workspace_id, False)

    async def kill(self, workspace_id: UUID) -> None:
        """Kill the workspace's processes, as the kernel may do."""
        pid = (await one(self.engine, "SELECT resources FROM workspaces WHERE id = :id", id=workspace_id)).resources[
            "pid"
        ]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while await self.runs(workspace_id):
                await asyncio.sleep(0.02)

    async def make_behind_our_back(self) -> UUID:
        orphan = provision(uuid4())
        await self.driver.apply(orphan, silent)
        return orphan.workspace_id


def provision(workspace_id: UUID) -> Provision:
    return Provision(
        **WHO,
        workspace_id=workspace_id,
        build_number=1,
        name="stray",
        owner="prebuilds",
        organization="acme",
        template="python",
        preset=None,
        source=SOURCE,
    )


def findings_of(rows: list[InventoryRow]) -> list[tuple[UUID, str, int, str]]:
    return [(row.workspace_id, row.finding, row.sightings, row.action) for row in rows]


async def end_all(driver: ProcessProvisioner) -> None:
    for item in await driver.inventory():
        await driver.destroy(knowing(replace_number(provision(item.workspace_id)), item), silent)


def replace_number(wanted: Provision) -> Provision:
    return wanted.model_copy(update={"build_number": REMOVAL_NUMBER})


async def sightings(engine: AsyncEngine) -> int:
    return int((await one(engine, "SELECT count(*) AS n FROM inventory_sightings")).n)
