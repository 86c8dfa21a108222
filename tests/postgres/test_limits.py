"""Limits of presets and organizations hold behind the locks, whoever writes at the same time."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.plan import ReconcilePlan, plan_preset
from prebuilds.store.pool import create_prebuilds, delete_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from tests.builders import MadePreset, make_preset
from tests.postgres.pool_steps import RULES, make_ready
from tests.rows import do, one

UNDER_WAY = """
    SELECT count(*) AS count FROM workspace_builds
     WHERE status IN ('pending', 'running', 'canceling') AND transition IN ('start', 'delete')
"""


async def plan(engine: AsyncEngine, preset: MadePreset) -> ReconcilePlan:
    number = await next_pass_number(engine)
    async with snapshot_transaction(engine) as connection:
        return plan_preset(await snapshot_preset(connection, preset.id, RULES), number)


async def carry_out(engine: AsyncEngine, planned: ReconcilePlan) -> None:
    at = engine, planned.preset_id, planned.pass_number
    await delete_prebuilds(*at, planned.delete, RULES)
    await create_prebuilds(*at, planned.create, RULES)


async def test_two_passes_of_one_preset_keep_to_max_concurrent(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=6)
    await make_ready(engine, preset, 6)
    await do(engine, "UPDATE presets SET max_concurrent = 4, last_invalidated_at = now() WHERE id = :id", id=preset.id)
    first, second = await plan(engine, preset), await plan(engine, preset)
    assert (len(first.delete), len(first.create), first.held) == (2, 2, "max_concurrent")
    await carry_out(engine, first)
    assert (await one(engine, UNDER_WAY)).count == 4
    await asyncio.gather(*(carry_out(engine, second) for _ in range(3)))
    assert (await one(engine, UNDER_WAY)).count == 4, "the second plan was made when nothing was under way"
    assert (await plan(engine, preset)).empty
