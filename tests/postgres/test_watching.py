"""A person's workspace that has ended is noticed on its host, and its owner starts it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ProvisionerUnavailable
from prebuilds.background.watching import Watcher
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.lifecycle import start_workspace
from prebuilds.store.workspaces import list_workspaces, show_workspace
from prebuilds.vocabulary import PROVISIONER_QUEUE
from tests.builders import make_preset
from tests.postgres.inventory_steps import Host, end_all, sightings
from tests.postgres.pool_steps import claim, record_prebuilds
from tests.rows import events


@pytest.fixture
async def host(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(engine, tmp_path / "state")
    yield host
    await end_all(host.driver)


@pytest.fixture
async def owned(engine: AsyncEngine, database_url: str, host: Host) -> UUID:
    """alice/dev, running on the host."""
    preset = await make_preset(engine)
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    await host.build(workspace_id)
    async with await create_claim_pool(database_url, size=2) as pool:
        await claim(ClaimStore(pool, enabled=True), preset, name="dev")
    await host.build(workspace_id)
    return workspace_id


def watcher(engine: AsyncEngine, host: Host, driver: Any = None) -> Watcher:
    return Watcher(engine, lambda _: driver or host.driver, [PROVISIONER_QUEUE], host.id, apart=timedelta(0))


async def test_an_ended_workspace_is_noticed_and_restarted(engine: AsyncEngine, host: Host, owned: UUID) -> None:
    watch = watcher(engine, host)
    await watch.sweep()
    assert await sightings(engine) == 0
    assert not (await start_workspace(engine, "alice/dev", "alice")).changed
    await host.kill(owned)

    await watch.sweep()
    await watch.sweep()
    await watch.sweep()
    assert await events(engine, "workspace_vanished") == [(None, {"provisioner": "process", "host": host.id})]
    shown = await show_workspace(engine, "alice/dev")
    assert (shown.warnings, shown.ready) == (["vanished"], False)
    assert [row.ready for row in await list_workspaces(engine)] == [False]

    started = await start_workspace(engine, "alice/dev", "alice")
    assert (started.changed, started.status) == (True, "starting")
    assert not (await start_workspace(engine, "alice/dev", "alice")).changed, (
        "a second request waits for the same start"
    )
    await host.build(owned)
    assert await host.runs(owned)
    shown = await show_workspace(engine, "alice/dev")
    assert (shown.warnings, shown.ready, shown.status) == ([], True, "running")
    assert not (await start_workspace(engine, "alice/dev", "alice")).changed
    await watch.sweep()
    assert await sightings(engine) == 0


async def test_one_sighting_allows_a_start_but_gives_no_warning(engine: AsyncEngine, host: Host, owned: UUID) -> None:
    await host.kill(owned)
    await watcher(engine, host).sweep()
    assert (await show_workspace(engine, "alice/dev")).warnings == []
    assert (await start_workspace(engine, "alice/dev", "alice")).changed


async def test_a_driver_that_cannot_say_proves_nothing(engine: AsyncEngine, host: Host, owned: UUID) -> None:
    class Away:
        locality = host.driver.locality

        async def inventory(self) -> None:
            raise ProvisionerUnavailable("no engine")

    await host.kill(owned)
    watch = watcher(engine, host, Away())
    await watch.sweep()
    await watch.sweep()
    assert await sightings(engine) == 0
    assert not (await start_workspace(engine, "alice/dev", "alice")).changed
