"""A canary must not give a failed version to more people, count a failure twice, or stop claims or passes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.rollout_changes import undo_rollout
from prebuilds.store.rollout_list import read_rollout
from prebuilds.vocabulary import DRILL_USER_ID, BuildStatus, build_id_of
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.canary_steps import BY_PATH, CANARY, claim_store, counted, filled, hand_over, judge, tried, version
from tests.postgres.pool_steps import RULES, Desk, claim, finish, got, make_ready
from tests.postgres.rollout_steps import members, roll, run_pass, states
from tests.rows import do, one


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with claim_store(database_url) as made:
        yield made


async def gone_back(engine: AsyncEngine, store: ClaimStore) -> tuple[MadePreset, MadePreset]:
    """Let version 2 of a pool of eight fail by its hand-overs, with two prebuilds of each version ready and two being
    made."""
    old, new = await tried(engine, 8, percent=50)
    for _ in range(4):
        await claim(store, BY_PATH)
    await run_pass(engine)
    await run_pass(engine)
    assert await members(engine) == {1: (2, 2), 2: (2, 2)}
    await hand_over(engine, fails=True)
    await judge(engine)
    assert (await find_preset(engine)).id == old.id
    return old, new


async def test_nobody_gets_the_failed_version_any_more(engine: AsyncEngine, store: ClaimStore) -> None:
    old, new = await gone_back(engine, store)
    assert [(await claim(store, BY_PATH)).preset_id for _ in range(2)] == [old.id, old.id]
    assert (await claim(store, BY_PATH)).result is None, "only the failed version has some ready"
    desk = Desk(engine, store)
    await desk.wait("w1")
    begun = await one(
        engine,
        "SELECT id FROM workspaces WHERE preset_id = :new AND latest_status = 'pending' LIMIT 1",
        new=new.id,
    )
    await begin_build(engine, build_id_of(begun.id, 1))
    await finish(engine, begun.id)
    assert (await desk.look("w1")).result is None
    await roll(engine)
    assert got(await desk.look("w1")) != begun.id
    assert set(await members(engine)) == {1}


async def test_the_failed_version_is_not_made_again_while_the_one_before_is_held(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    await gone_back(engine, store)
    await roll(engine, bad_version=1, error_type="InvalidSource")
    assert await members(engine) == {1: (2, 0)}
    await claim(store, BY_PATH)
    await roll(engine, bad_version=1)
    assert await members(engine) == {1: (1, 0)}
    assert [state for *_, state, _ in await states(engine)] == ["undone", "failed"]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_version_after_a_failed_canary_rolls_from_the_last_good_one(
    engine: AsyncEngine, store: ClaimStore, by_hand: bool
) -> None:
    if by_hand:
        await tried(engine, 8, percent=50)
        await undo_rollout(engine, "acme/python", "ops")
    else:
        await gone_back(engine, store)
    old = await find_preset(engine)
    again = await version(engine, 2, 8)
    row = await one(
        engine, "SELECT from_number, to_number, canary_state FROM rollouts ORDER BY started_at DESC LIMIT 1"
    )
    assert tuple(row) == (1, 2, "running"), "the same content: not the way back from the way back"
    await version(engine, 3, 8)
    row = await one(
        engine, "SELECT from_number, to_number, canary_state FROM rollouts ORDER BY started_at DESC LIMIT 1"
    )
    assert tuple(row) == (1, 3, "running")
    await roll(engine, bad_version=3, error_type="InvalidSource")
    assert (await find_preset(engine)).id == old.id != again.id


async def test_a_hand_over_that_is_tried_again_counts_once_and_a_drills_not_at_all(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    _, new = await filled(engine, 0, 2, percent=50)
    drilled = await claim(store, new)
    assert drilled.result is not None
    await do(
        engine,
        "UPDATE workspace_builds SET initiator_id = :drill WHERE workspace_id = :id AND stage = 'claim'",
        drill=DRILL_USER_ID,
        id=drilled.result.workspace_id,
    )
    await hand_over(engine, fails=True)
    given = await claim(store, new)
    assert given.result is not None
    for _ in range(3):
        build = await one(engine, "SELECT id FROM workspace_builds WHERE stage = 'claim' AND status = 'pending'")
        await begin_build(engine, build.id)
        await end_build(engine, build.id, BuildStatus.FAILED, error="no", error_type="ProvisionFailed")
        await do(
            engine,
            "UPDATE workspace_builds SET completed_at = completed_at - interval '1 minute' WHERE id = :id",
            id=build.id,
        )
        await do(engine, "UPDATE workspaces SET next_action_at = now() WHERE next_action_at IS NOT NULL")
        await take_due_actions(engine)
    tries = await one(
        engine,
        "SELECT count(*) AS n FROM workspace_builds WHERE workspace_id = :id AND stage = 'claim' AND status = 'failed'",
        id=given.result.workspace_id,
    )
    assert tries.n == 3
    await judge(engine)
    assert (await find_preset(engine)).id == new.id
    row = await read_rollout(engine, "acme/python", RULES)
    assert row.canary is not None
    assert row.canary.evidence is not None
    assert "1 of 1 hand-overs" in row.canary.evidence


async def test_a_waiting_claim_that_the_older_version_cannot_serve_gets_the_new_one(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    for number in ("1", "2"):
        more = {"claim_parameters": ["token"]} if number == "2" else {}
        preset = {"name": "small", "instances": 2, "parameters": {"n": number}, **more}
        await apply_file(engine, preset, canary=CANARY)
    new = await find_preset(engine)
    desk = Desk(engine, store)
    await desk.wait("w1")
    ready = await make_ready(engine, new, 1)
    assert [got(await desk.look("w1"))] == ready
    assert await counted(engine) == (0, 0)


async def test_a_canary_whose_pool_is_removed_has_ended(engine: AsyncEngine) -> None:
    await tried(engine, 4)
    await apply_file(engine, {"name": "small", "parameters": {"n": "2"}}, canary=CANARY)
    await roll(engine)
    row = await one(engine, "SELECT state, canary_state FROM rollouts")
    assert tuple(row) == ("succeeded", "ended")


async def test_a_canary_that_cannot_be_ended_stops_no_pass(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = await tried(engine, 4)
    await do(engine, "UPDATE workspace_builds SET status = 'failed' WHERE preset_id = :id", id=new.id)
    await make_ready(engine, new, 1)
    await do(engine, "UPDATE workspace_builds SET status = 'failed' WHERE preset_id = :id", id=new.id)
    await do(engine, "UPDATE rollouts SET from_version_id = NULL")
    await run_pass(engine)
    assert (await one(engine, "SELECT canary_state FROM rollouts")).canary_state == "running"
    assert "canary" in caplog.text
    assert (await find_preset(engine)).id == new.id != old.id


async def test_a_miss_at_the_older_versions_turn_is_recorded_for_the_active_preset(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    _, new = await filled(engine, 0, 1)
    await claim(store, BY_PATH)
    event = await one(engine, "SELECT preset_id FROM events WHERE kind = 'claim_missed'")
    assert event.preset_id == new.id


async def test_a_count_may_become_large(engine: AsyncEngine, store: ClaimStore) -> None:
    _, new = await filled(engine, 1, 1, percent=99)
    await do(engine, "UPDATE canary_claims SET claims = 30000000, new_claims = 29700000 - 1")
    assert (await claim(store, BY_PATH)).preset_id == new.id
