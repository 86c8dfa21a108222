"""The places that an inventory asks, how often it asks, and the sightings it forgets of former places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.inventory import PlaceActivities
from prebuilds.store import inventory
from prebuilds.vocabulary import PROVISIONER_QUEUE
from tests.builders import make_preset
from tests.postgres.inventory_steps import Host, end_all, sightings
from tests.postgres.pool_steps import make_ready, record_prebuilds
from tests.rows import do


@pytest.fixture
async def host(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(engine, tmp_path / "state")
    yield host
    await end_all(host.driver)


async def test_places_are_hosts_and_queues_of_live_and_lately_deleted_workspaces(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    ids = await make_ready(engine, preset, 5)
    [never_begun] = await record_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspaces SET host = 'live' WHERE id = ANY(:ids)", ids=ids[:2])
    gone = (
        "UPDATE workspaces SET host = :host, deleted_at = now() - CAST(:ago AS interval), claimable_preset_id = NULL,"
    )
    gone += " claim_build_id = NULL WHERE id = :id"
    await do(engine, gone, host="lately", ago=timedelta(days=6), id=ids[2])
    await do(engine, gone, host="long-ago", ago=timedelta(days=8), id=ids[3])
    activities = PlaceActivities(engine)

    async def places() -> list[tuple[str | None, list[str]]]:
        return [(p.host, p.queues) for p in await ActivityEnvironment().run(activities.list_places)]

    queues = [PROVISIONER_QUEUE]
    assert await places() == [("lately", queues), ("live", queues), (None, queues)]
    await do(engine, "UPDATE workspaces SET host = 'live' WHERE id = :id", id=ids[4])
    assert await places() == [("lately", queues), ("live", queues)], f"{never_begun} exists nowhere"


async def test_exactly_one_relay_starts_a_comparison_every_ten_minutes(engine: AsyncEngine) -> None:
    async def turns() -> int:
        return sum(await asyncio.gather(*[inventory.take_inventory_turn(engine) for _ in range(5)]))

    await do(engine, "UPDATE settings SET inventory_at = now()")  # the template of this database may be older than that
    assert await turns() == 0, "a new deployment has nothing to compare"
    await do(engine, "UPDATE settings SET inventory_at = now() - interval '10 minutes'")
    assert await turns() == 1
    assert await turns() == 0


async def test_sightings_of_a_place_that_is_asked_no_more_are_forgotten(engine: AsyncEngine, host: Host) -> None:
    await host.make_behind_our_back()
    await host.look(fix=False)
    await inventory.list_places(engine)
    assert await sightings(engine) == 1
    await do(engine, "UPDATE inventory_sightings SET last_seen_at = now() - interval '8 days'")
    await inventory.list_places(engine)
    assert await sightings(engine) == 0
