"""A driver that any host can serve: a few orphans are removed at a time, and only it decides what has vanished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InventoryItem, Locality, Progress, Provision
from prebuilds.store import inventory
from prebuilds.store.inventory import Place
from prebuilds.store.inventory_findings import REMOVAL_NUMBER
from prebuilds.store.workspaces import show_workspace
from prebuilds.vocabulary import PROVISIONER_QUEUE
from tests.builders import SOURCE, MadePreset, make_preset
from tests.identities import EPOCH
from tests.postgres.inventory_steps import Host, end_all, findings_of, sightings
from tests.postgres.pool_steps import make_ready, record_prebuilds
from tests.rows import do


@pytest.fixture
async def host(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(engine, tmp_path / "state")
    yield host
    await end_all(host.driver)


@pytest.fixture
async def preset(engine: AsyncEngine) -> MadePreset:
    return await make_preset(engine)


@pytest.fixture
async def prebuild(engine: AsyncEngine, host: Host, preset: MadePreset) -> UUID:
    """A prebuild that runs on the host."""
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    await host.build(workspace_id)
    return workspace_id


class Remote:
    """A driver that any host can serve, with things of its own."""

    locality = Locality.SHARED

    def __init__(self, items: list[InventoryItem]) -> None:
        self.items = items
        self.stuck: set[UUID] = set()
        self.hangs = False
        self.destroyed: list[Provision] = []
        self.probed: bool | Exception = False

    async def probe(self, workspace_id: UUID) -> bool:
        if isinstance(self.probed, Exception):
            raise self.probed
        return self.probed

    async def inventory(self) -> list[InventoryItem]:
        return self.items

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        progress("removing")
        if self.hangs:
            await asyncio.Event().wait()
        if wanted.workspace_id in self.stuck:
            raise ProvisionFailed("the account is locked")
        await progress.save_state({})
        self.destroyed.append(wanted)
        self.items = [item for item in self.items if item.workspace_id != wanted.workspace_id]


async def thing(engine: AsyncEngine, workspace_id: UUID) -> InventoryItem:
    hour_ago = await inventory.read_clock(engine) - timedelta(hours=1)
    return InventoryItem(workspace_id=workspace_id, build_number=1, running=True, created_at=hour_ago, epoch=EPOCH)


SHARED = Place("process", None, [PROVISIONER_QUEUE])


async def test_a_removal_knows_what_the_deleted_row_knew(engine: AsyncEngine, host: Host) -> None:
    preset = await make_preset(engine, parameters={"size": "small"})
    [deleted] = await record_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id", id=deleted)
    await do(
        engine,
        """UPDATE workspace_builds SET status = 'succeeded', completed_at = now(), provisioner_state = '{"id": 7}'
            WHERE workspace_id = :id""",
        id=deleted,
    )
    unknown = uuid4()
    remote = Remote([await thing(engine, deleted), await thing(engine, unknown)])
    await host.look(driver=remote, place=SHARED)
    await host.look(driver=remote, place=SHARED)
    wanted = {one.workspace_id: one for one in remote.destroyed}
    assert {one.build_number for one in remote.destroyed} == {REMOVAL_NUMBER}
    known = wanted[deleted]
    assert (known.source, known.parameters, known.state) == (SOURCE, {"size": "small"}, {"id": 7})
    assert (wanted[unknown].source, wanted[unknown].state) == ({}, None)


async def test_an_orphan_that_stays_keeps_no_other(engine: AsyncEngine, host: Host) -> None:
    stuck, other = sorted([uuid4(), uuid4()])
    remote = Remote([await thing(engine, stuck), await thing(engine, other)])
    remote.stuck = {stuck}
    await host.look(driver=remote, place=SHARED)
    rows = await host.look(driver=remote, place=SHARED)
    assert findings_of(rows) == [(stuck, "orphan", 2, "failed"), (other, "orphan", 2, "removed")]
    assert findings_of(await host.look(driver=remote, place=SHARED)) == [(stuck, "orphan", 3, "failed")]


async def test_unremovable_orphans_do_not_block_other_removals(
    engine: AsyncEngine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.inventory.REMOVALS_MAX", 1)
    *stuck, other = sorted(uuid4() for _ in range(3))
    remote = Remote([await thing(engine, workspace_id) for workspace_id in (*stuck, other)])
    remote.stuck = set(stuck)
    for _ in range(100):
        rows = await host.look(driver=remote, place=SHARED)
        assert sum(row.action != "none" for row in rows) <= 1
        if remote.destroyed:
            break
    assert [one.workspace_id for one in remote.destroyed] == [other]


async def test_removals_that_take_long_leave_the_rest_for_another_time(
    engine: AsyncEngine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.inventory.REMOVALS_BEGIN_WITHIN_S", 0.1)
    monkeypatch.setattr("activities.inventory.REMOVAL_TIMEOUT_S", 0.2)
    remote = Remote([await thing(engine, uuid4()) for _ in range(5)])
    remote.hangs = True
    await host.look(driver=remote, place=SHARED)
    rows = await host.look(driver=remote, place=SHARED)
    assert sorted(row.action for row in rows) == ["failed", "none", "none", "none", "none"], "and all are reported"


async def test_a_shared_place_is_compared_with_its_own_workspaces(
    engine: AsyncEngine, host: Host, prebuild: UUID
) -> None:
    [elsewhere] = await make_ready(engine, await make_preset(engine, template="other"), 1)  # with no host recorded
    assert findings_of(await host.look(driver=Remote([]), place=SHARED)) == [(elsewhere, "vanished", 1, "none")]
    assert await host.look(driver=Remote([]), place=Place("process", None, ["another-queue"])) == []
    assert await host.look() == [], "nor is it missed on a host"


@pytest.mark.parametrize("answer", [True, ProvisionerUnavailable("another worker has it"), TimeoutError()])
async def test_a_workspace_vanishes_only_when_the_driver_confirms(
    engine: AsyncEngine, host: Host, preset: MadePreset, answer: bool | Exception
) -> None:
    [workspace_id] = await make_ready(engine, preset, 1)
    remote = Remote([])
    assert findings_of(await host.look(driver=remote, place=SHARED)) == [(workspace_id, "vanished", 1, "none")]
    remote.probed = answer
    assert await host.look(driver=remote, place=SHARED) == []
    assert (await show_workspace(engine, str(workspace_id))).ready
    assert await sightings(engine) == 0


async def test_a_host_is_asked_only_about_itself(host: Host, prebuild: UUID) -> None:
    await host.kill(prebuild)
    assert await host.look(place=SHARED) == []
    assert await host.look(place=Place("process", "another", [PROVISIONER_QUEUE])) == []
