"""The rule of expiry lives in one function of the database, which costs a claim nothing."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.snapshot import is_expired
from tests.builders import make_preset
from tests.rows import add_prebuild
from tests.unit.pools import pool

SQL = text("SELECT is_expired(CAST(:made AS timestamptz), expiry_of(:made, CAST(:after AS interval)), :invalidated)")
MINUTE = timedelta(minutes=1)
AFTER = [None, timedelta(0), 4 * MINUTE, 5 * MINUTE, timedelta(days=400)]
INVALIDATED = [None, 6 * MINUTE, 5 * MINUTE, 4 * MINUTE]
LOOK = """
    EXPLAIN (FORMAT JSON)
    SELECT id FROM workspaces w
     WHERE w.claimable_preset_id = '{id}' AND NOT is_expired(w.created_at, w.expires_at, '2026-03-02Z'::timestamptz)
     ORDER BY w.created_at, w.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""


async def test_the_database_and_the_planner_have_one_rule(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        now: Any = await connection.scalar(text("SELECT now()"))
        made = now - 5 * MINUTE
        for after, invalidated in itertools.product(AFTER, INVALIDATED):
            at = None if invalidated is None else now - invalidated
            in_sql = await connection.scalar(SQL, {"made": made, "after": after, "invalidated": at})
            preset = pool(1, expire_after=after, last_invalidated_at=at).preset
            assert in_sql is is_expired(preset, made, now), (after, invalidated)


async def test_a_day_has_24_hours_also_when_clocks_change(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL timezone = 'Europe/Berlin'"))
        made = datetime(2026, 10, 24, 12, tzinfo=UTC)  # the night after it has 25 hours
        statement = text("SELECT expiry_of(:made, CAST(:after AS interval))")
        expiry = await connection.scalar(statement, {"made": made, "after": timedelta(days=1)})
    assert expiry == made + timedelta(days=1)


async def test_a_claims_look_walks_the_partial_index_and_calls_no_function(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await add_prebuild(engine, preset, MINUTE)
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))  # the table is tiny
        plan = json.dumps((await connection.exec_driver_sql(LOOK.format(id=preset.id))).scalar())
    assert "workspaces_claimable_idx" in plan
    assert "Sort" not in plan
    assert "is_expired" not in plan, "it is inlined"


async def test_no_statement_has_a_copy_of_the_rule(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        functions = await connection.scalars(
            text("SELECT proname FROM pg_proc WHERE prosrc LIKE '%expires_at <%' OR prosrc LIKE '%expires_at >%'")
        )
        assert set(functions) == {"is_expired"}
