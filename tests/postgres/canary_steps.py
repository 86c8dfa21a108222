"""Brings a template to the middle of a canary, without workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.store.canaries import judge_canaries, read_canaries
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import RULES, make_ready
from tests.postgres.rollout_steps import roll
from tests.rows import do, one

BY_PATH = ClaimTarget("acme/python/small", path=["acme", "python", "small"])
CANARY: dict[str, Any] = {"percent": 10, "for": "30m", "min_claims": 4, "max_failure": "25%"}


async def version(engine: AsyncEngine, number: int, instances: int = 10, **entry: Any) -> MadePreset:
    """Apply the *number*th content of one preset, with a canary."""
    preset = {"name": "small", "instances": instances, "parameters": {"n": str(number)}}
    await apply_file(engine, preset, **{"canary": CANARY} | entry)
    return await find_preset(engine)


async def tried(engine: AsyncEngine, instances: int = 10, **canary: Any) -> tuple[MadePreset, MadePreset]:
    """Make a full pool of version 1, of which version 2 has its share."""
    old = await version(engine, 1, instances)
    await make_ready(engine, old, instances)
    new = await version(engine, 2, instances, canary=CANARY | canary)
    await roll(engine)
    return old, new


async def filled(engine: AsyncEngine, old: int, new: int, **canary: Any) -> tuple[MadePreset, MadePreset]:
    """Make these numbers of prebuilds of version 1 and then of version 2, which a canary tries."""
    before = await version(engine, 1)
    for _ in range(0, old, 90):  # a pass makes at most 100
        await make_ready(engine, before, min(old, 90))
    after = await version(engine, 2, canary=CANARY | canary)
    await make_ready(engine, after, new)
    return before, after


async def counted(engine: AsyncEngine) -> tuple[int, int]:
    row = await one(engine, "SELECT sum(claims) AS claims, sum(new_claims) AS new FROM canary_claims")
    return row.claims, row.new


async def hand_over(engine: AsyncEngine, *, fails: bool = False) -> None:
    """End the hand-overs that are under way."""
    await do(
        engine,
        """UPDATE workspace_builds
              SET status = :status, started_at = now(), completed_at = now(), next_dispatch_at = NULL
            WHERE stage = 'claim' AND status = 'pending'""",
        status="failed" if fails else "succeeded",
    )


async def later(engine: AsyncEngine) -> None:
    """Let 31 minutes go by for the rollout."""
    await do(engine, "UPDATE rollouts SET started_at = started_at - interval '31 minutes'")


@asynccontextmanager
async def claim_store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with await create_claim_pool(database_url, size=8) as pool:
        yield ClaimStore(pool, enabled=True)


async def judge(engine: AsyncEngine) -> None:
    """Judge the canaries as a pass does, without the rest of the pass."""
    async with snapshot_transaction(engine) as connection:
        plan = plan_pass(await snapshot_state(connection, RULES))
    await judge_canaries(engine, await read_canaries(engine, plan), RULES)
