"""A benchmark's own pools, on a deployment whose loop goes on."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.bench.filling import Pools
from prebuilds.planning.holds import Hold
from prebuilds.planning.plan import plan_preset
from tests.builders import find_preset
from tests.postgres.lifecycle_steps import let_pass
from tests.postgres.pool_steps import snapshot_of
from tests.rows import do

CLAIM = """
    SELECT outcome.answer ->> 'source' FROM decide_claim(
        'first', '\\x00', NULL, :organization, 't1', 'p1', :organization, :organization, 'dev', NULL, NULL, NULL, NULL,
        'fail', true, NULL, gen_random_uuid(), gen_random_uuid(), NULL, 'run', now(), now() + interval '1 minute'
    ) AS outcome
"""


async def test_pools_that_are_filled_up_later_are_still_not_refilled(engine: AsyncEngine) -> None:
    pools = Pools()
    await pools.fill(engine, ready=2)
    for ready in (3, 5):
        await let_pass(engine, timedelta(minutes=10))
        await pools.fill_up(engine, ready)
        preset = await find_preset(engine, pools.organization, "t1", "p1")
        await do(engine, "UPDATE presets SET desired_instances = 100 WHERE id = :id", id=preset.id)
        plan = plan_preset(await snapshot_of(engine, preset), 1)
        assert (plan.create, plan.delete) == ([], [])
        assert plan.held == Hold.VALIDATION_FAILED


async def test_claims_of_filled_pools_find_their_rows_by_an_index(engine: AsyncEngine) -> None:
    pools = Pools()
    await pools.fill(engine, ready=1)
    async with engine.begin() as connection:
        assert await connection.scalar(text(CLAIM), {"organization": pools.organization}) == "prebuilt"
        counts = "SELECT seq_scan, idx_scan > 0 FROM pg_stat_xact_user_tables WHERE relname = 'claims'"
        assert (await connection.execute(text(counts))).one() == (0, True)
