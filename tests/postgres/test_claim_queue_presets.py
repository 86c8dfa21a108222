"""Claims that wait while their preset changes, and the pool that is made for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.payloads import ClaimQueued, ClaimRequest, ClaimResult
from prebuilds.planning.plan import plan_preset
from prebuilds.store.build_begin import begin_build
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claim_transactions import locking_max
from prebuilds.store.claims import ClaimOutcome, ClaimStore, hash_request
from prebuilds.store.engine import create_claim_pool, dsn_of
from prebuilds.store.loop import pause, resume
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.store.status import read_status
from prebuilds.store.templates import delete_template, deprecate_template
from prebuilds.vocabulary import PREBUILDS_USER_ID, MissReason, OnEmpty, build_id_of
from tests.builders import MadePreset, apply_file, find_preset, make_preset
from tests.postgres.pool_steps import (
    RULES,
    Desk,
    begin_prebuilds,
    finish,
    got,
    make_ready,
    new_run,
    owner_of,
    position_of,
    snapshot_of,
    until_blocked,
)
from tests.rows import do, one

PATH = ("acme", "python", "small")


# --- Presets that change ---------------------------------------------------------------------------------------------


async def test_a_new_version_takes_its_waiters_along(engine: AsyncEngine, desk: Desk) -> None:
    old = await make_preset(engine, instances=0)
    await desk.wait("by-path")
    await desk.wait("by-id", preset=str(old.id))
    [stale] = await begin_prebuilds(engine, old, 1)
    recreate = {"rollout": {"strategy": "recreate"}}
    await apply_file(engine, {"name": "small", "instances": 0, "parameters": {"a": "b"}}, **recreate)
    new = await find_preset(engine)
    assert (await finish(engine, stale)).served.workflow_ids == [], "only the active version serves"
    assert await owner_of(engine, stale) == PREBUILDS_USER_ID
    assert (await snapshot_of(engine, new)).preset.waiting == 2
    made = await make_ready(engine, new, 2)
    assert [got(await desk.look("by-path")), got(await desk.look("by-id"))] == made


async def test_joining_minds_a_version_that_came_meanwhile(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    """It locks the row of the preset that will serve it: otherwise it could join while a build is ending."""
    await make_preset(engine, instances=0)
    request = ClaimRequest(preset="/".join(PATH), owner="alice", name="dev", on_empty=OnEmpty.WAIT)
    target, request_hash = ClaimTarget("acme/python/small", path=PATH), hash_request(request)
    run = new_run()
    missed = await store.claim("c1", request, target, request_hash, run)
    await apply_file(engine, {"name": "small", "instances": 0, "parameters": {"a": "b"}})
    new = await find_preset(engine)
    ending = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = ending.transaction()
        await transaction.start()
        await ending.execute("SELECT FROM presets WHERE id = $1 FOR SHARE", new.id)
        joining = asyncio.create_task(ClaimQueue(store).join("c1", "c1", request, target, missed, request_hash, run))
        await until_blocked(ending)
        await transaction.rollback()
        assert isinstance(await joining, ClaimQueued)
    finally:
        await ending.close()


async def test_a_pool_that_went_meanwhile_is_not_waited_for(engine: AsyncEngine, store: ClaimStore) -> None:
    await make_preset(engine, instances=0)
    request = ClaimRequest(preset="/".join(PATH), owner="alice", name="dev", on_empty=OnEmpty.WAIT)
    target, request_hash = ClaimTarget("acme/python/small", path=PATH), hash_request(request)
    run = new_run()
    missed = await store.claim("c1", request, target, request_hash, run)
    await do(engine, "UPDATE presets SET desired_instances = NULL")
    found = await ClaimQueue(store).join("c1", "c1", request, target, missed, request_hash, run)
    assert isinstance(found, ClaimOutcome)
    assert (found.result, found.miss_reason) == (None, MissReason.NO_POOL)


async def _deprecated(engine: AsyncEngine) -> None:
    await deprecate_template(engine, "acme/python", "ops")


async def _deleted(engine: AsyncEngine) -> None:
    await delete_template(engine, "acme/python", "ops")


async def _switched_off(engine: AsyncEngine) -> None:
    await do(engine, "UPDATE organizations SET prebuilds_enabled = false")


@pytest.mark.parametrize("change", [_deprecated, _deleted, _switched_off])
async def test_only_an_active_preset_serves(
    engine: AsyncEngine, desk: Desk, change: Callable[[AsyncEngine], Awaitable[None]]
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1")
    [made] = await begin_prebuilds(engine, preset, 1)
    await change(engine)
    assert (await finish(engine, made)).served.workflow_ids == []
    assert await owner_of(engine, made) == PREBUILDS_USER_ID
    assert position_of(await desk.look("c1")) == 1


async def test_no_pool_is_refused_at_once(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine, instances=None)
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as refused:
        await desk.ask("c1", on_empty="wait")
    assert refused.value.details == {"miss_reason": "no_pool"}
    made = await desk.ask("c2", on_empty="wait", on_timeout="create")
    assert isinstance(made, ClaimResult)
    assert (made.source, made.miss_reason) == ("created", "no_pool")
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0


# --- The pool that they wait for -------------------------------------------------------------------------------------


async def waiting_in_status(engine: AsyncEngine) -> list[int]:
    return [row.waiting for row in (await read_status(engine, RULES)).presets]


async def pass_over(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """Run pass *number* over a preset and begin its creations."""
    plan = plan_preset(await snapshot_of(engine, preset), number)
    return (await create_prebuilds(engine, preset.id, number, plan.create, RULES)).workspace_ids


async def test_a_pool_of_zero_serves_its_waiters(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    assert await pass_over(engine, preset, 1) == []
    for n in range(2):
        await desk.wait(f"c{n}")
    assert desk.dispatcher.nudged == [preset.id] * 2, "the pool has more to make now"
    assert await waiting_in_status(engine) == [2]
    async with snapshot_transaction(engine) as connection:
        [counted] = (await snapshot_state(connection, RULES)).presets
    assert (counted.preset.waiting, counted.preset.base_instances) == (2, 0)
    made = await pass_over(engine, preset, 2)
    assert len(made) == 2
    assert await pass_over(engine, preset, 3) == [], "running creations count"
    await begin_builds(engine, made)
    for workspace_id in made:
        await finish(engine, workspace_id)
    assert {got(await desk.look(f"c{n}")) for n in range(2)} == set(made)
    assert await waiting_in_status(engine) == [0]
    assert await pass_over(engine, preset, 4) == []


async def test_only_the_serving_version_shows_waiters(engine: AsyncEngine, desk: Desk) -> None:
    old = await make_preset(engine, instances=1)
    await begin_prebuilds(engine, old, 1)
    await apply_file(engine, {"name": "small", "instances": 0, "parameters": {"a": "b"}})
    await desk.wait("c1")
    shown = {row.version: row.waiting for row in (await read_status(engine, RULES)).presets}
    assert shown == {1: 0, 2: 1}


async def test_a_pause_stops_creations_for_waiters_but_not_the_queue(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    [running] = await begin_prebuilds(engine, preset, 1)
    await pause(engine, "ops", "upgrade")
    for n in range(2):
        assert (await desk.wait(f"c{n}")).position == n + 1
    assert await pass_over(engine, preset, 100) == []
    await finish(engine, running)
    assert got(await desk.look("c0")) == running, "a build that ends in a pause is handed over"
    await resume(engine, "ops")
    assert len(await pass_over(engine, preset, 101)) == 1


async def begin_builds(engine: AsyncEngine, workspace_ids: list[UUID]) -> None:
    for workspace_id in workspace_ids:
        await begin_build(engine, build_id_of(workspace_id, 1))


@pytest.mark.parametrize("kind", ["waits", "batches"])
async def test_waiters_for_one_preset_do_not_delay_claims_of_another(
    engine: AsyncEngine, database_url: str, kind: str
) -> None:
    await apply_file(engine, {"name": "small", "instances": 0}, {"name": "large", "instances": 1})
    small, large = await find_preset(engine), await find_preset(engine, preset="large")
    [made] = await make_ready(engine, large, 1)
    connections = 8
    number = 2 * connections
    holder, watcher = [await asyncpg.connect(dsn_of(database_url)) for _ in range(2)]
    async with await create_claim_pool(database_url, size=connections) as pool:
        desk = Desk(engine, ClaimStore(pool, enabled=True))
        try:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute("SELECT FROM presets WHERE id = $1 FOR NO KEY UPDATE", small.id)
            if kind == "waits":
                tasks = [asyncio.create_task(desk.wait(f"w{n}")) for n in range(number)]
                async with asyncio.timeout(10):  # all have missed, and go on to wait
                    while await watcher.fetchval("SELECT count(*) FROM claims WHERE outcome = 'missed'") < number:
                        await asyncio.sleep(0.01)
            else:
                tasks = [asyncio.create_task(desk.ask_all(f"b{n}", ["a"])) for n in range(number)]
            await until_blocked(
                watcher, locking_max(connections)
            )  # not by the holder: a transaction sees one moment's activity
            async with asyncio.timeout(3):
                claimed = await desk.ask("fast", preset="acme/python/large")
            assert isinstance(claimed, ClaimResult)
            assert claimed.workspace_id == made
            await transaction.rollback()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await holder.close()
            await watcher.close()
    expected = ClaimQueued if kind == "waits" else NoClaimablePrebuiltWorkspaces
    assert [type(answer) for answer in answers] == [expected] * number
