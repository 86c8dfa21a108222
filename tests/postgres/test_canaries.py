"""A canary: a share of a pool and of its claims gets a new version first, and the verdict is carried out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import ClaimResult
from prebuilds.store import rollout_changes
from prebuilds.store.claims import ClaimStore
from prebuilds.store.rollout_list import read_rollout
from tests.builders import find_preset
from tests.postgres.canary_steps import (
    BY_PATH,
    claim_store,
    counted,
    filled,
    hand_over,
    later,
    tried,
    version,
)
from tests.postgres.pool_steps import RULES, Desk, begin_prebuilds, claim, finish, got, make_ready
from tests.postgres.rollout_steps import members, roll, run_pass, states
from tests.rows import do, events, one


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with claim_store(database_url) as made:
        yield made


async def test_a_new_version_stops_at_its_share(engine: AsyncEngine) -> None:
    await tried(engine, 20)
    assert await members(engine) == {1: (18, 0), 2: (2, 0)}
    assert [state for *_, state, _ in await states(engine)] == ["running"]
    row = await read_rollout(engine, "acme/python", RULES)
    assert row.canary is not None
    assert (row.canary.state, row.canary.percent, row.canary.claims, row.canary.new_claims) == ("running", 10, 0, 0)
    assert row.canary.evidence is not None
    assert row.canary.evidence.startswith("0 of 2 were bad")


@pytest.mark.parametrize("at_once", [1, 8])
async def test_claims_are_shared_exactly(engine: AsyncEngine, store: ClaimStore, at_once: int) -> None:
    _, new = await filled(engine, 180, 30)
    served = []
    for _ in range(200 // at_once):
        served += await asyncio.gather(*(claim(store, BY_PATH) for _ in range(at_once)))
    results = [one.result for one in served if one.result is not None]
    assert len(results) == 200
    fresh = [n for n, result in enumerate(results, 1) if result.preset_id == new.id]
    assert len(fresh) == 20
    if at_once == 1:
        assert fresh == list(range(10, 201, 10))
    assert {result.version for result in results} == {None, 1}
    assert await counted(engine) == (200, 20)


async def test_each_version_substitutes_for_the_other_within_its_share(engine: AsyncEngine, store: ClaimStore) -> None:
    old, new = await filled(engine, 2, 3, percent=50)
    served = [(await claim(store, BY_PATH)).preset_id for _ in range(4)]
    assert served == [old.id, new.id, old.id, new.id]
    missed = await claim(store, BY_PATH)
    assert missed.result is None, "the older one's turn, and it has none"
    assert missed.preset_id == new.id
    assert await counted(engine) == (4, 2)
    created = await claim(store, BY_PATH, on_empty="create")
    assert created.result is not None
    assert (created.result.source, created.result.preset_id, created.result.version) == ("created", old.id, 1)
    by_id = await claim(store, new)
    assert by_id.preset_id == new.id
    assert await counted(engine) == (5, 2), "a claim by id gets it, and is not counted"


async def test_the_new_version_makes_up_for_turns_at_which_it_had_none(engine: AsyncEngine, store: ClaimStore) -> None:
    old, new = await filled(engine, 5, 1, percent=50)
    served = [(await claim(store, BY_PATH)).preset_id for _ in range(5)]
    assert served == [old.id, new.id, old.id, old.id, old.id]
    await make_ready(engine, new, 3)
    served = [(await claim(store, BY_PATH)).preset_id for _ in range(4)]
    assert served == [new.id, new.id, new.id, old.id]
    assert await counted(engine) == (9, 4)


async def test_batches_take_turns_too(engine: AsyncEngine, store: ClaimStore) -> None:
    await tried(engine, 10, percent=50)
    batch = await Desk(engine, store).ask_all("b", ["w", "x", "y", "z"])
    assert [one.version for one in batch.claims] == [1, None, 1, None]
    assert await counted(engine) == (4, 2)


async def test_a_waiter_gets_the_new_version_only_in_its_turn(engine: AsyncEngine, store: ClaimStore) -> None:
    old, new = await tried(engine, 2, percent=50)
    for _ in range(2):
        await claim(store, BY_PATH)
    desk = Desk(engine, store)
    await desk.wait("w1")
    await make_ready(engine, new, 1)
    assert (await desk.look("w1")).result is None
    [begun] = await begin_prebuilds(engine, old, 1)
    await finish(engine, begun)
    assert got(await desk.look("w1")) == begun
    assert await counted(engine) == (3, 1)


async def test_a_good_version_goes_on_to_all(engine: AsyncEngine, store: ClaimStore) -> None:
    _, new = await tried(engine, 4, percent=50)
    for _ in range(4):
        for _ in range(2):
            await claim(store, BY_PATH)
        await hand_over(engine)
        await roll(engine)
    assert await members(engine) == {1: (2, 0), 2: (2, 0)}, "not before it has lasted long enough"
    await later(engine)
    await run_pass(engine)  # finds the verdict, which the next one acts on
    await roll(engine)
    assert await members(engine) == {2: (4, 0)}
    assert [state for *_, state, _ in await states(engine)] == ["succeeded"]
    [(_, passed)] = await events(engine, "canary_passed")
    assert (passed["claims"], passed["new_claims"], passed["bad"]) == (8, 4, 0)
    assert (await claim(store, BY_PATH)).preset_id == new.id
    assert await counted(engine) == (8, 4), "nobody counts any more"
    row = await one(engine, "SELECT count(*) AS n FROM presets WHERE canary_rollout_id IS NOT NULL")
    assert row.n == 0


async def test_a_version_whose_hand_overs_fail_goes_back_by_itself(engine: AsyncEngine, store: ClaimStore) -> None:
    old, new = await tried(engine, 4, percent=50)
    met = []
    for _ in range(20):
        met.append((await claim(store, BY_PATH)).preset_id)
        await hand_over(engine, fails=met[-1] == new.id)
        await roll(engine)
        if (await find_preset(engine)).id == old.id:
            break
    assert met.count(new.id) == 2
    assert len(met) == 4
    await roll(engine)
    assert await members(engine) == {1: (4, 0)}
    [(*_, state, reason), back] = await states(engine)
    assert state == "undone"
    assert reason is not None
    assert reason.startswith("failed: canary: 2 of ")
    assert back == (2, 1, "succeeded", None)
    [(_, failed)] = await events(engine, "canary_failed")
    assert (failed["claims"], failed["new_claims"], failed["bad"]) == (4, 2, 2)
    notification = await one(
        engine, "SELECT body FROM notifications WHERE kind = 'canary_failed' AND notifier = 'webhook'"
    )
    assert (notification.body["template"], notification.body["to"], notification.body["from"]) == ("python", 2, 1)
    row = await one(engine, "SELECT canary_state FROM rollouts WHERE to_number = 2")
    assert row.canary_state == "failed"
    again = await version(engine, 2, 4)
    assert (await one(engine, "SELECT count(*) AS n FROM rollouts WHERE canary_state = 'running'")).n == 1
    assert again.id == new.id
    await roll(engine)
    assert await members(engine) == {1: (3, 0), 2: (1, 0)}, "its earlier results do not count against it"


async def test_a_version_that_cannot_be_built_goes_back_at_once(engine: AsyncEngine) -> None:
    old = await version(engine, 1, 4)
    await make_ready(engine, old, 4)
    await version(engine, 2, 4)
    seen = await roll(engine, bad_version=2, error_type="InvalidSource")
    assert min(found[1][0] for found in seen) == 4
    assert (await find_preset(engine)).id == old.id
    [(*_, reason), _] = await states(engine)
    assert reason == "failed: canary: small: validation_failed"


async def test_slow_creations_and_failed_drills_count(engine: AsyncEngine) -> None:
    old, new = await tried(engine, 10, percent=20, slower_than=2)
    await do(
        engine,
        "UPDATE workspace_builds SET started_at = completed_at - interval '10 s' WHERE preset_id = :old",
        old=old.id,
    )
    await do(
        engine,
        "UPDATE workspace_builds SET started_at = completed_at - interval '21 s' WHERE preset_id = :new",
        new=new.id,
    )
    row = await read_rollout(engine, "acme/python", RULES)
    assert row.canary is not None
    assert row.canary.evidence is not None
    assert row.canary.evidence.startswith("2 of 2 were bad: 0 of 2 creations failed and 2 were slow")
    await do(
        engine,
        """INSERT INTO drills (id, template_id, due_at, template_version_id, outcome, stage, ended_at, requested_by)
           VALUES (gen_random_uuid(), :template, now(), :version, 'failed', 'check', now(), 'ops')""",
        template=new.template_id,
        version=new.version_id,
    )
    await run_pass(engine)
    assert (await find_preset(engine)).id == old.id


async def test_a_third_version_supersedes_a_canary_and_may_remove_it(engine: AsyncEngine, store: ClaimStore) -> None:
    await tried(engine, 4)
    third = await version(engine, 3, 4)
    await roll(engine)
    assert await members(engine) == {1: (3, 0), 3: (1, 0)}
    assert [state for *_, state, _ in await states(engine)] == ["superseded", "running"]
    assert (await one(engine, "SELECT canary_state FROM rollouts WHERE to_number = 2")).canary_state == "ended"
    await version(engine, 3, 4, canary=None)
    await roll(engine)
    await roll(engine)
    assert await members(engine) == {3: (4, 0)}
    assert (await claim(store, BY_PATH)).preset_id == third.id


async def test_a_paused_canary_has_no_verdict_and_an_undone_one_is_over(engine: AsyncEngine, store: ClaimStore) -> None:
    old, _ = await tried(engine, 4, percent=50, min_claims=1, max_failure="100%")
    for _ in range(2):
        await claim(store, BY_PATH)
    await hand_over(engine)
    await later(engine)
    await rollout_changes.pause_rollout(engine, "acme/python", "ops")
    await roll(engine)
    assert (await one(engine, "SELECT canary_state FROM rollouts")).canary_state == "running"
    await rollout_changes.undo_rollout(engine, "acme/python", "ops")
    await roll(engine)
    assert await members(engine) == {1: (4, 0)}
    assert [(await claim(store, BY_PATH)).preset_id for _ in range(3)] == [old.id] * 3
    result = (await claim(store, BY_PATH)).result
    assert isinstance(result, ClaimResult)
    assert result.version is None
