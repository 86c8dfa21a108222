"""Real processes against the records: orphans are removed, prebuilds replaced, owners warned."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.inventory import YOUNG, Finding, Found, Sighting
from prebuilds.planning.plan import plan_preset
from prebuilds.store import inventory_findings
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.lifecycle import start_workspace, stop_workspace
from prebuilds.store.snapshots import next_pass_number
from prebuilds.store.standby import move_prebuilds
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.vocabulary import ORCHESTRATOR_ID
from tests.builders import MadePreset, make_preset
from tests.postgres.inventory_steps import Host, end_all, findings_of, provision, replace_number, sightings, silent
from tests.postgres.pool_steps import RULES, claim, record_prebuilds, snapshot_of
from tests.rows import do, events, one


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


async def test_a_recorded_running_workspace_is_no_finding(engine: AsyncEngine, host: Host, owned: UUID) -> None:
    assert await host.look() == []
    assert await host.look() == []
    assert await host.runs(owned)


async def test_an_orphan_is_reported_then_removed(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    orphan = await host.make_behind_our_back()
    first = await host.look()
    assert findings_of(first) == [(orphan, "orphan", 1, "none")]
    assert (first[0].provisioner, first[0].host) == ("process", host.id)
    assert 0 <= first[0].age_seconds < 60
    assert await host.runs(orphan)
    second = await host.look()
    assert findings_of(second) == [(orphan, "orphan", 2, "removed")]
    assert second[0].first_seen_at == first[0].first_seen_at < second[0].last_seen_at
    assert {item.workspace_id for item in await host.driver.inventory()} == {prebuild}, "and nothing else was touched"
    assert await host.runs(prebuild)
    assert await host.look() == []
    assert await sightings(engine) == 0
    assert await events(engine, "orphan_removed") == [(None, {"provisioner": "process", "host": host.id})]


async def test_a_comparison_without_fix_only_reports(engine: AsyncEngine, host: Host) -> None:
    orphan = await host.make_behind_our_back()
    for n in (1, 2, 3):
        assert findings_of(await host.look(fix=False)) == [(orphan, "orphan", n, "none")]
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


async def test_leftovers_of_a_deleted_workspace_are_removed(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await do(
        engine,
        "UPDATE workspaces SET deleted_at = now(), claimable_preset_id = NULL, claim_build_id = NULL WHERE id = :id",
        id=prebuild,
    )
    assert [row.action for _ in range(2) for row in await host.look()] == ["none", "removed"]
    assert not await host.runs(prebuild)


async def test_a_workspace_under_deletion_is_no_finding(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await release_workspace(engine, str(prebuild), "ops")
    await host.driver.stop(replace_number(provision(prebuild)), silent)
    assert await host.look() == await host.look() == []


async def test_a_vanished_prebuild_is_replaced(
    engine: AsyncEngine, host: Host, preset: MadePreset, prebuild: UUID
) -> None:
    await host.kill(prebuild)
    assert findings_of(await host.look()) == [(prebuild, "vanished", 1, "none")]
    assert (await show_workspace(engine, str(prebuild))).ready, "one sighting changes nothing"
    assert host.workflows.signals == []
    assert findings_of(await host.look()) == [(prebuild, "vanished", 2, "replaced")]
    assert not (await show_workspace(engine, str(prebuild))).ready
    assert (ORCHESTRATOR_ID, "nudge") in host.workflows.signals
    assert await events(engine, "workspace_vanished") == [(preset.id, {"provisioner": "process", "host": host.id})]
    plan = plan_preset(await snapshot_of(engine, preset), 1000)
    assert (plan.delete, len(plan.create)) == ([prebuild], 1)
    assert findings_of(await host.look()) == [(prebuild, "vanished", 3, "none")], "it was given up before"
    assert len(await events(engine, "workspace_vanished")) == 1


async def test_a_folder_that_is_gone_too_has_vanished(engine: AsyncEngine, host: Host, prebuild: UUID) -> None:
    await end_all(host.driver)
    assert findings_of(await host.look()) == [(prebuild, "vanished", 1, "none")]


async def test_a_paused_one_need_not_run_and_its_leftovers_go(
    engine: AsyncEngine, host: Host, preset: MadePreset, prebuild: UUID
) -> None:
    await do(engine, "UPDATE presets SET desired_instances = 0, standby_paused = 1")
    number = await next_pass_number(engine)
    moved = await move_prebuilds(engine, preset.id, number, RULES, resume=[], pause=[prebuild])
    assert moved.workspace_ids == [prebuild]
    await host.build(prebuild)
    assert not await host.runs(prebuild)
    assert await host.look() == await host.look() == [], "it exists, and nothing of it should run"
    await do(engine, "UPDATE workspaces SET deleted_at = now(), resume_build_id = NULL WHERE id = :id", id=prebuild)
    assert findings_of(await host.look()) == [(prebuild, "orphan", 1, "none")]
    assert findings_of(await host.look()) == [(prebuild, "orphan", 2, "removed")]
    assert await host.driver.inventory() == []


async def test_a_paused_one_whose_files_are_gone_is_made_anew_by_its_resume(
    engine: AsyncEngine, host: Host, preset: MadePreset, prebuild: UUID
) -> None:
    await do(engine, "UPDATE presets SET desired_instances = 0, standby_paused = 1")
    await move_prebuilds(engine, preset.id, await next_pass_number(engine), RULES, resume=[], pause=[prebuild])
    await host.build(prebuild)
    shutil.rmtree((await show_workspace(engine, str(prebuild))).resources["folder"])
    assert await host.look() == await host.look() == [], "nobody can tell before it is resumed"
    await do(engine, "UPDATE presets SET desired_instances = 1, standby_paused = 0")
    await move_prebuilds(engine, preset.id, await next_pass_number(engine), RULES, resume=[prebuild], pause=[])
    await host.build(prebuild)
    assert await host.runs(prebuild)
    assert (await show_workspace(engine, str(prebuild))).ready


async def test_an_owner_is_notified_once_and_the_workspace_is_unchanged(
    engine: AsyncEngine, host: Host, owned: UUID
) -> None:
    await host.kill(owned)
    before = await one(engine, "SELECT xmin::text, w FROM workspaces w WHERE id = :id", id=owned)
    assert (await show_workspace(engine, "alice/dev")).warnings == []
    actions = [findings_of(await host.look())[0][3] for _ in range(3)]
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
    assert await inventory_findings.give_up_vanished(engine, host.place, found) is None
    owned = replace(found, owned=True)
    assert not await inventory_findings.report_vanished(engine, host.place, owned), "it is being handed over"
    await host.build(prebuild)
    assert (await show_workspace(engine, "alice/dev")).status == "running"


async def test_nothing_with_a_live_row_is_ever_removed(engine: AsyncEngine, prebuild: UUID) -> None:
    assert await inventory_findings.read_removal(engine, prebuild) is None
