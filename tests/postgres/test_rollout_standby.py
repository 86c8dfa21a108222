"""A rollout with a standby: paused prebuilds are replaced last, serve when no ready one does, and are refilled."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.snapshot import count_prebuilds
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.vocabulary import PREBUILDS_USER_ID
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import RULES, claim, snapshot_of
from tests.postgres.rollout_steps import end_builds, roll, run_pass, states
from tests.rows import do, one

BY_PATH = ClaimTarget("acme/python/small", path=["acme", "python", "small"])
PAUSED = f"""
    SELECT coalesce(jsonb_object_agg(number, paused), '{{}}') AS found FROM (
        SELECT v.number, count(*) AS paused FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
         WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.resume_build_id IS NOT NULL GROUP BY v.number) AS x
"""


async def version(engine: AsyncEngine, number: int, instances: int = 2, standby: int = 2) -> MadePreset:
    entry = {"name": "small", "instances": instances, "parameters": {"n": str(number)}, "standby": {"paused": standby}}
    await apply_file(engine, entry)
    return await find_preset(engine)


async def idle(engine: AsyncEngine) -> dict[str, int]:
    """Return the numbers of paused prebuilds by version."""
    return dict((await one(engine, PAUSED)).found)


async def check_plans(engine: AsyncEngine, *presets: MadePreset) -> None:
    """Counts and rows agree, and each generation gives the plan of all."""
    async with snapshot_transaction(engine) as connection:
        found = await snapshot_state(connection, RULES)
    counted = {item.preset.id: item.counts for item in found.presets}
    decided = {one.item.preset.id: one for one in plan_pass(found).decisions}
    for preset in presets:
        if preset.id not in counted:
            continue
        pool = await snapshot_of(engine, preset)
        assert counted[preset.id] == count_prebuilds(pool.preset, pool.prebuilds, pool)
        plan = plan_preset(pool, 1)
        assert any(one.has_work for one in decided.values()) is not plan.empty


async def test_paused_ones_are_replaced_last_and_serve_until_then(engine: AsyncEngine, store: ClaimStore) -> None:
    old = await version(engine, 1)
    await roll(engine)
    assert await idle(engine) == {"1": 2}
    new = await version(engine, 2)
    await run_pass(engine)
    await check_plans(engine, old, new)
    claims = [(await claim(store, BY_PATH)).result for _ in range(3)]
    assert [(c.source, c.version) for c in claims if c is not None] == [
        ("prebuilt", 1),
        ("prebuilt", 1),
        ("paused", 1),
    ], "an older version serves with what it has"
    by_id = (await claim(store, new)).result
    assert by_id is None, "a claim by a preset's id gets nothing else"
    seen = []
    for _ in range(20):
        worked = await run_pass(engine)
        await check_plans(engine, old, new)
        await end_builds(engine)
        seen.append(await idle(engine))
        if not worked:
            break
    assert seen[-1] == {"2": 2}
    assert await states(engine) == [(1, 2, "succeeded", None)]


@pytest.mark.parametrize("standby", [2, 0])
async def test_a_bad_version_leaves_a_standby_that_is_used_and_refilled(
    engine: AsyncEngine, store: ClaimStore, standby: int
) -> None:
    """Also one that the bad version wants and the old one had not."""
    old = await version(engine, 1, standby=standby)
    await roll(engine)
    new = await version(engine, 2)
    for _ in range(3):
        await claim(store, BY_PATH)
        await run_pass(engine)
        await check_plans(engine, old, new)
        await end_builds(engine, bad_version=2)
        await do(engine, "UPDATE workspace_builds SET created_at = now() - interval '1 hour' WHERE status = 'failed'")
    await roll(engine, bad_version=2)
    assert await idle(engine) == {"1": 2}
    assert [state[2] for state in await states(engine)] == ["failed"]
    counts = {}
    for preset in (old, new):
        pool = await snapshot_of(engine, preset)
        counts[preset.id] = count_prebuilds(pool.preset, pool.prebuilds, pool).eligible
    assert counts == {old.id: 2, new.id: 0}
