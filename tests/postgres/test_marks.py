"""A database restored to before a claim: the claimed workspace is neither given to another person nor removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import DatabaseRestored
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.store.loop import read_control
from prebuilds.store.restoring import restored
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import MadePreset, make_preset
from tests.conftest import create_database, database_at, drop_database
from tests.postgres.inventory_steps import Host, end_all, findings_of, provision, silent
from tests.postgres.pool_steps import claim, record_prebuilds
from tests.rows import do, events, one


@dataclass
class Restored:
    engine: AsyncEngine
    url: str


Restore = Callable[[], Awaitable[Restored]]


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
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    await host.build(workspace_id)
    return workspace_id


@pytest.fixture
async def restore(
    engine: AsyncEngine, database_url: str, postgres_server: str, prebuild: UUID, preset: MadePreset, host: Host
) -> AsyncIterator[Restore]:
    """A dump is taken while the prebuild is ready; then alice claims it. Restoring gives the dump's database."""
    dump, restored = f"dump_{uuid4().hex[:12]}", list[AsyncEngine]()
    await engine.dispose()  # open connections prevent copying the database
    await create_database(postgres_server, dump, template=str(make_url(database_url).database))
    await claim_by("alice", "alices", database_url, preset)
    await host.build(prebuild)

    async def restore() -> Restored:
        url = database_at(postgres_server, dump)
        restored.append(create_engine(url))
        return Restored(restored[-1], url)

    yield restore
    for one_engine in restored:
        await one_engine.dispose()
    await drop_database(postgres_server, dump)


async def claim_by(owner: str, claim_id: str, database_url: str, preset: MadePreset) -> UUID | None:
    async with await create_claim_pool(database_url, size=2) as pool:
        claimed = await claim(ClaimStore(pool, enabled=True), preset, claim_id, owner=owner, name="dev")
    return claimed.result.workspace_id if claimed.result is not None else None


def read_mark_of(host: Host, workspace_id: UUID) -> str:
    folder = host.driver._folders.folder(workspace_id)
    return str(json.loads((folder / "claim.json").read_text())["owner"])


async def test_a_forgotten_claim_keeps_its_workspace(
    restore: Restore, host: Host, prebuild: UUID, preset: MadePreset, tmp_path: Path
) -> None:
    restored = await restore()
    back = Host(restored.engine, tmp_path / "state")
    assert await claim_by("bob", "bobs", restored.url, preset) == prebuild, "the database knows no better"
    outcome = await back.try_build(prebuild)
    assert outcome.status is BuildStatus.FAILED
    assert outcome.error is not None
    assert "was given to alice by claim alices" in outcome.error
    build = await one(
        back.engine, "SELECT error_type FROM workspace_builds WHERE workspace_id = :id AND number = 2", id=prebuild
    )
    assert build.error_type == "OwnedByAnother"
    row = await one(back.engine, "SELECT next_action_at, quarantined_at FROM workspaces WHERE id = :id", id=prebuild)
    assert row.next_action_at is None, "no second try: it would be refused, too"
    assert row.quarantined_at is not None
    assert read_mark_of(host, prebuild) == "alice"
    mark = json.loads((host.driver._folders.folder(prebuild) / "claim.json").read_text())
    assert (mark["claim_id"], mark["build_id"]) == ("alices", str(build_id_of(prebuild, 2))), "one of it, however often"
    assert await host.runs(prebuild)


async def test_the_inventory_quarantines_what_was_handed_over_before_anybody_claims_it_again(
    restore: Restore, host: Host, prebuild: UUID, preset: MadePreset, tmp_path: Path
) -> None:
    restored_to = await restore()
    back = Host(restored_to.engine, tmp_path / "state")
    row = await one(back.engine, "SELECT claimable_preset_id FROM workspaces WHERE id = :id", id=prebuild)
    assert row.claimable_preset_id == preset.id, "the restored database would give it away"
    looks = [await back.look() for _ in range(3)]
    assert [findings_of(rows) for rows in looks[:2]] == [
        [(prebuild, "contradicted", 1, "none")],
        [(prebuild, "contradicted", 2, "quarantined")],
    ]
    assert {(row.claimed_by, row.claim_id) for row in looks[1]} == {("alice", "alices")}
    shown = await show_workspace(back.engine, str(prebuild))
    assert (shown.status, shown.ready) == ("quarantined", False)
    assert "says that alice claimed it by claim alices" in (shown.quarantine_reason or "")
    with pytest.raises(DatabaseRestored):
        await claim_by("bob", "bobs", restored_to.url, preset)
    await restored(back.engine, "ops", dry_run=False)
    assert await claim_by("bob", "bobs-again", restored_to.url, preset) is None, "it is claimable never again"
    assert (await one(back.engine, "SELECT count(*) FROM events WHERE kind = 'quarantined'")) == (1,)
    assert read_mark_of(host, prebuild) == "alice"
    assert await host.runs(prebuild)


async def test_a_forgotten_claim_is_not_deleted_with_the_pool(
    restore: Restore, host: Host, prebuild: UUID, tmp_path: Path
) -> None:
    back = Host((await restore()).engine, tmp_path / "state")
    await release_workspace(back.engine, str(prebuild), "ops")
    outcome = await back.try_build(prebuild)
    assert outcome.status is BuildStatus.FAILED
    assert await host.runs(prebuild)
    row = await one(
        back.engine, "SELECT deleted_at, next_action_at, quarantine_reason FROM workspaces WHERE id = :id", id=prebuild
    )
    assert (row.deleted_at, row.next_action_at) == (None, None), "it stays until a person decides"
    assert "was given to alice by claim alices" in row.quarantine_reason


async def test_a_claim_marked_object_is_no_removable_orphan(
    restore: Restore, host: Host, prebuild: UUID, tmp_path: Path
) -> None:
    """The database was restored to before the prebuild, too."""
    back = Host((await restore()).engine, tmp_path / "state")
    await do(back.engine, "TRUNCATE workspaces CASCADE")
    looks = [await back.look() for _ in range(3)]
    assert [findings_of(rows) for rows in looks] == [
        [(prebuild, "orphan", 1, "none")],
        [(prebuild, "orphan", 2, "reported")],
        [(prebuild, "orphan", 3, "reported")],
    ]
    assert {(row.claimed_by, row.claim_id) for rows in looks for row in rows} == {("alice", "alices")}
    where = {"provisioner": "process", "host": back.id}
    assert await events(back.engine, "orphan_reported") == [
        (None, where | {"claimed_by": "alice", "claim_id": "alices"})
    ]
    assert await host.runs(prebuild)


async def test_an_owner_can_release_a_marked_workspace(
    engine: AsyncEngine, restore: Restore, host: Host, prebuild: UUID
) -> None:
    assert await host.look() == []
    await release_workspace(engine, "alice/dev", "alice")
    await host.build(prebuild)
    assert await host.driver.inventory() == []


async def test_leftovers_of_a_released_workspace_are_removed(
    engine: AsyncEngine, restore: Restore, host: Host, prebuild: UUID
) -> None:
    """The host was away. The row still names the owner."""
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id", id=prebuild)
    assert [row.action for _ in range(2) for row in await host.look()] == ["none", "removed"]
    assert await host.driver.inventory() == []


async def test_a_mark_that_cannot_be_read_sets_one_workspace_aside_and_stops_nobody_else(
    engine: AsyncEngine, restore: Restore, host: Host, prebuild: UUID
) -> None:
    mark = host.driver._folders.folder(prebuild) / "owner.json"
    readable = mark.read_text()
    mark.write_text("")
    assert [row.action for _ in range(2) for row in await host.look()] == ["none", "quarantined"]
    assert (await read_control(engine)).restore_found is None
    mark.write_text(readable)


async def test_an_orphan_of_another_epoch_is_only_reported(engine: AsyncEngine, host: Host) -> None:
    orphan = provision(uuid4()).model_copy(update={"epoch": uuid4()})
    await host.driver.apply(orphan, silent)
    assert [row.action for _ in range(2) for row in await host.look()] == ["none", "reported"]
    assert await host.runs(orphan.workspace_id)


async def test_orphans_are_only_reported_where_that_is_set(engine: AsyncEngine, host: Host) -> None:
    orphan = await host.make_behind_our_back()
    for action in ("none", "reported", "reported"):
        assert [row.action for row in await host.look(orphans="report")] == [action]
    assert await host.runs(orphan)
    assert len(await events(engine, "orphan_reported")) == 1
    assert [row.action for row in await host.look()] == ["removed"]
