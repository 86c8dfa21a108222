"""What exists against what is recorded, with real processes: orphans go, prebuilds are replaced, owners are told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.inventory import InventoryActivities, Look, PlaceActivities
from activities.provisioning import ProvisioningActivities
from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.dispatch import Dispatcher
from prebuilds.planning.inventory import YOUNG, Finding, Found, Sighting
from prebuilds.planning.plan import plan_preset
from prebuilds.provisioners.base import InventoryItem, Locality, Progress, Provision
from prebuilds.provisioners.host import host_id
from prebuilds.provisioners.process import ProcessProvisioner
from prebuilds.store import inventory
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.inventory import REMOVAL_NUMBER, Place
from prebuilds.store.owned import start_workspace, stop_workspace
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.views import InventoryRow
from prebuilds.vocabulary import ORCHESTRATOR_ID, PROVISIONER_QUEUE, build_id_of
from tests.builders import SOURCE, MadePreset, make_preset
from tests.postgres.pool_steps import Workflows, claim, make_ready, record_prebuilds, snapshot_of
from tests.rows import do, events, one

NOW = timedelta(0)


def silent(_: str) -> None: ...


class Host:
    """One host's driver, builds and looks, as a provisioner worker there has them."""

    def __init__(self, engine: AsyncEngine, folder: Path) -> None:
        self.engine = engine
        self.id = host_id(folder)
        self.driver = ProcessProvisioner(folder)
        self.workflows = Workflows()
        self.dispatcher = Dispatcher(engine, cast("Client", self.workflows))
        self.place = Place("process", self.id, [PROVISIONER_QUEUE])

    async def build(self, workspace_id: UUID) -> None:
        """Its latest build, through the driver."""
        latest = await one(self.engine, "SELECT latest_build FROM workspaces WHERE id = :id", id=workspace_id)
        activities = ProvisioningActivities(self.engine, self.dispatcher, lambda _: self.driver, self.id)
        outcome = await ActivityEnvironment().run(activities.run_build, build_id_of(workspace_id, latest.latest_build))
        assert outcome.error is None

    async def look(
        self, *, fix: bool = True, young: timedelta = NOW, driver: Any = None, place: Place | None = None
    ) -> list[InventoryRow]:
        """Two looks in a row count here as two that are a minute apart."""
        activities = InventoryActivities(
            self.engine, self.dispatcher, lambda _: driver or self.driver, self.id, young=young, apart=NOW
        )
        looked = await ActivityEnvironment().run(activities.look, Look(place or self.place, fix))
        await self.dispatcher.drain()
        assert looked.omitted == 0
        return list(looked.findings)

    async def runs(self, workspace_id: UUID) -> bool:
        return {item.workspace_id: item.running for item in await self.driver.inventory()}.get(workspace_id, False)

    async def kill(self, workspace_id: UUID) -> None:
        """As the kernel does, behind our back."""
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
        workspace_id=workspace_id,
        build_number=1,
        name="stray",
        owner="prebuilds",
        organization="acme",
        template="python",
        preset=None,
        source=SOURCE,
    )


def told(rows: list[InventoryRow]) -> list[tuple[UUID, str, int, str]]:
    return [(row.workspace_id, row.finding, row.sightings, row.action) for row in rows]


async def end_all(driver: ProcessProvisioner) -> None:
    for item in await driver.inventory():
        await driver.destroy(replace_number(provision(item.workspace_id)), silent)


def replace_number(wanted: Provision) -> Provision:
    return wanted.model_copy(update={"build_number": REMOVAL_NUMBER})


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


@pytest.fixture
async def owned(engine: AsyncEngine, database_url: str, host: Host, preset: MadePreset, prebuild: UUID) -> UUID:
    """alice/dev, running on the host."""
    async with await create_claim_pool(database_url, size=2) as pool:
        await claim(ClaimStore(pool, enabled=True), preset, name="dev")
    await host.build(prebuild)
    return prebuild


async def sightings(engine: AsyncEngine) -> int:
    return int((await one(engine, "SELECT count(*) AS n FROM inventory_sightings")).n)


async def test_what_is_recorded_and_runs_is_no_finding(engine: AsyncEngine, host: Host, owned: UUID) -> None:
    assert await host.look() == []
    assert await host.look() == []
    assert await host.runs(owned)


async def test_an_orphan_is_reported_then_removed(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    orphan = await host.make_behind_our_back()
    first = await host.look()
    assert told(first) == [(orphan, "orphan", 1, "none")]
    assert (first[0].provisioner, first[0].host) == ("process", host.id)
    assert 0 <= first[0].age_seconds < 60
    assert await host.runs(orphan)
    second = await host.look()
    assert told(second) == [(orphan, "orphan", 2, "removed")]
    assert second[0].first_seen_at == first[0].first_seen_at < second[0].last_seen_at
    assert {item.workspace_id for item in await host.driver.inventory()} == {prebuild}, "and nothing else was touched"
    assert await host.runs(prebuild)
    assert await host.look() == []
    assert await sightings(engine) == 0
    assert await events(engine, "orphan_removed") == [(None, {"provisioner": "process", "host": host.id})]


async def test_a_look_that_may_not_act_only_reports(engine: AsyncEngine, host: Host) -> None:
    orphan = await host.make_behind_our_back()
    for n in (1, 2, 3):
        assert told(await host.look(fix=False)) == [(orphan, "orphan", n, "none")]
    assert await host.runs(orphan)


async def test_a_young_thing_is_nobodys_orphan(host: Host) -> None:
    orphan = await host.make_behind_our_back()
    assert await host.look(young=YOUNG) == await host.look(young=YOUNG) == []
    assert await host.runs(orphan)


async def test_processes_of_others_are_never_touched(engine: AsyncEngine, host: Host, tmp_path: Path) -> None:
    other = Host(engine, tmp_path / "other")
    theirs = await other.make_behind_our_back()
    with subprocess.Popen(["sleep", "infinity"], env={"PREBUILDS_WORKSPACE_ID": str(uuid4())}) as untagged:
        for _ in range(3):
            assert await host.look() == []
        assert await other.runs(theirs)
        assert psutil.pid_exists(untagged.pid)
        assert untagged.poll() is None
        untagged.kill()
    await end_all(other.driver)


async def test_what_a_deleted_workspace_left_is_removed(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await do(
        engine,
        "UPDATE workspaces SET deleted_at = now(), claimable_preset_id = NULL, claim_build_id = NULL WHERE id = :id",
        id=prebuild,
    )
    assert [row.action for _ in range(2) for row in await host.look()] == ["none", "removed"]
    assert not await host.runs(prebuild)


async def test_what_is_just_being_deleted_is_no_finding(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await release_workspace(engine, str(prebuild), "ops")
    await host.driver.stop(replace_number(provision(prebuild)), silent)
    assert await host.look() == await host.look() == []


async def test_a_vanished_prebuild_is_replaced(
    engine: AsyncEngine, host: Host, preset: MadePreset, prebuild: UUID
) -> None:
    await host.kill(prebuild)
    assert told(await host.look()) == [(prebuild, "vanished", 1, "none")]
    assert (await show_workspace(engine, str(prebuild))).ready, "one sighting changes nothing"
    assert host.workflows.signals == []
    assert told(await host.look()) == [(prebuild, "vanished", 2, "replaced")]
    assert not (await show_workspace(engine, str(prebuild))).ready
    assert (ORCHESTRATOR_ID, "nudge") in host.workflows.signals
    assert await events(engine, "workspace_vanished") == [(preset.id, {"provisioner": "process", "host": host.id})]
    plan = plan_preset(await snapshot_of(engine, preset), 1000)
    assert (plan.delete, len(plan.create)) == ([prebuild], 1)
    assert told(await host.look()) == [(prebuild, "vanished", 3, "none")], "it was given up before"
    assert len(await events(engine, "workspace_vanished")) == 1


async def test_a_folder_that_is_gone_too_has_vanished(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await end_all(host.driver)
    assert told(await host.look()) == [(prebuild, "vanished", 1, "none")]


async def test_an_owner_is_told_once_and_nothing_of_theirs_is_changed(
    engine: AsyncEngine, host: Host, owned: UUID
) -> None:
    await host.kill(owned)
    before = await one(engine, "SELECT xmin::text, w FROM workspaces w WHERE id = :id", id=owned)
    assert (await show_workspace(engine, "alice/dev")).warnings == []
    actions = [told(await host.look())[0][3] for _ in range(3)]
    assert actions == ["none", "told", "told"]
    assert await events(engine, "workspace_vanished") == [(None, {"provisioner": "process", "host": host.id})]
    shown = await show_workspace(engine, "alice/dev")
    assert shown.warnings == ["vanished"]
    assert [event.kind for event in shown.events][-1] == "workspace_vanished"
    assert (shown.status, len(shown.builds)) == ("running", 2)
    assert await one(engine, "SELECT xmin::text, w FROM workspaces w WHERE id = :id", id=owned) == before
    assert {item.workspace_id for item in await host.driver.inventory()} == {owned}, "its folder stays"


async def test_a_workspace_that_is_made_again_is_warned_of_no_more(
    engine: AsyncEngine, host: Host, owned: UUID
) -> None:
    await host.kill(owned)
    await host.look()
    await host.look()
    await stop_workspace(engine, "alice/dev", "alice")
    assert (await show_workspace(engine, "alice/dev")).warnings == []
    await host.build(owned)
    await start_workspace(engine, "alice/dev", "alice")
    await host.build(owned)
    assert (await show_workspace(engine, "alice/dev")).warnings == [], "the warning was of its start before"
    assert await host.look() == []
    assert await sightings(engine) == 0
    assert await host.runs(owned)


async def test_a_claim_that_comes_between_wins(
    engine: AsyncEngine, database_url: str, host: Host, preset: MadePreset, prebuild: UUID
) -> None:
    started_at = (await one(engine, "SELECT latest_ended_at AS at FROM workspaces WHERE id = :id", id=prebuild)).at
    seen = Sighting(prebuild, Finding.VANISHED, started_at, started_at, 2)
    found = Found(seen, confirmed=True, owned=False, since=started_at)
    async with await create_claim_pool(database_url, size=2) as pool:
        await claim(ClaimStore(pool, enabled=True), preset, name="dev")
    assert await inventory.give_up_vanished(engine, host.place, found) is None
    assert not await inventory.tell_vanished(engine, host.place, replace(found, owned=True)), "it is being handed over"
    await host.build(prebuild)
    assert (await show_workspace(engine, "alice/dev")).status == "running"


async def test_nothing_with_a_live_row_is_ever_removed(engine: AsyncEngine, prebuild: UUID) -> None:
    assert await inventory.read_removal(engine, prebuild) is None


# --- Other drivers ---


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
    return InventoryItem(workspace_id=workspace_id, build_number=1, running=True, created_at=hour_ago)


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
    assert told(rows) == [(stuck, "orphan", 2, "failed"), (other, "orphan", 2, "removed")]
    assert told(await host.look(driver=remote, place=SHARED)) == [(stuck, "orphan", 3, "failed")]


async def test_those_that_cannot_be_removed_are_not_the_first_every_time(
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
    assert told(await host.look(driver=Remote([]), place=SHARED)) == [(elsewhere, "vanished", 1, "none")]
    assert await host.look(driver=Remote([]), place=Place("process", None, ["another-queue"])) == []
    assert await host.look() == [], "nor is it missed on a host"


@pytest.mark.parametrize("answer", [True, ProvisionerUnavailable("another worker has it"), TimeoutError()])
async def test_what_a_driver_does_not_say_is_gone_has_not_vanished(
    engine: AsyncEngine, host: Host, preset: MadePreset, answer: bool | Exception
) -> None:
    [workspace_id] = await make_ready(engine, preset, 1)
    remote = Remote([])
    assert told(await host.look(driver=remote, place=SHARED)) == [(workspace_id, "vanished", 1, "none")]
    remote.probed = answer
    assert await host.look(driver=remote, place=SHARED) == []
    assert (await show_workspace(engine, str(workspace_id))).ready
    assert await sightings(engine) == 0


async def test_a_host_is_asked_only_about_itself(host: Host, prebuild: UUID) -> None:
    await host.kill(prebuild)
    assert await host.look(place=SHARED) == []
    assert await host.look(place=Place("process", "another", [PROVISIONER_QUEUE])) == []


# --- Where to ask, and when ---


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


async def test_one_of_many_relays_starts_the_comparison_each_ten_minutes(engine: AsyncEngine) -> None:
    async def turns() -> int:
        return sum(await asyncio.gather(*[inventory.take_inventory_turn(engine) for _ in range(5)]))

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
