"""Claims are counted for pool sizes, each once, in the ten-second slot in which it was made."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.demand import DemandCounter
from prebuilds.planning.sizing.demand import Demand
from prebuilds.store.claims import ClaimStore
from prebuilds.store.demand import TAKE_TURN, count_claims, read_demand, read_progress
from prebuilds.store.engine import create_claim_pool
from tests.builders import MadePreset, make_preset
from tests.postgres.pool_steps import claim, make_ready
from tests.rows import do, one

AT = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)


async def count(engine: AsyncEngine) -> None:
    counter = DemandCounter(engine)
    for _ in range(3):
        await counter.step()


async def add_claims(engine: AsyncEngine, preset: MadePreset, *seconds: float, kind: str = "claim_missed") -> None:
    for second in seconds:
        at = AT + timedelta(seconds=second)
        async with engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO events (at, kind, actor, preset_id) VALUES (:at, :kind, 'alice', :preset)"),
                {"at": at, "kind": kind, "preset": preset.id},
            )


async def demand_of(engine: AsyncEngine, preset: MadePreset, minutes: int = 3) -> Demand:
    row = await one(engine, f"SELECT template_id, name FROM presets WHERE id = '{preset.id}'")
    async with engine.connect() as connection:
        return await read_demand(connection, row.template_id, row.name, AT, minutes, None)


async def test_claims_are_counted_when_they_were_made(engine: AsyncEngine) -> None:
    preset, other = await make_preset(engine), await make_preset(engine, "large", template="java")
    await add_claims(engine, preset, 0, 9.9, 10, 59.9, 60)
    await add_claims(engine, other, 30)
    await add_claims(engine, preset, 20, kind="prebuilds_created")
    await count(engine)
    assert list((await demand_of(engine, preset)).counts) == [2, 1, 0, 0, 0, 1, 1, *[0] * 11]
    await add_claims(engine, preset, 5, 70)
    await count(engine)
    assert list((await demand_of(engine, preset)).counts) == [3, 1, 0, 0, 0, 1, 1, 1, *[0] * 10]
    assert sum((await demand_of(engine, other)).counts) == 1


async def test_demand_begins_with_the_first_claim_of_all(engine: AsyncEngine) -> None:
    """Time before the first claim does not count: a pool of yesterday has a day of history, not two weeks."""
    preset = await make_preset(engine)
    assert (await demand_of(engine, preset)).minutes == 0
    await add_claims(engine, preset, 130)
    await count(engine)
    demand = await demand_of(engine, preset, minutes=5)
    assert (demand.begins_at, list(demand.counts)) == (AT + timedelta(minutes=2), [0, 1, *[0] * 16])
    assert (await demand_of(engine, preset, minutes=1)).minutes == 0
    await add_claims(engine, preset, -600)
    await count(engine)
    assert (await demand_of(engine, preset)).minutes == 3


async def test_real_claims_tell_whether_they_found_one_ready(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    async with await create_claim_pool(database_url, size=1) as pool:
        for _ in range(3):
            await claim(ClaimStore(pool, enabled=True), preset)
    # One that waited an hour counts when it was made, and is no hit.
    await do(
        engine, "UPDATE claims SET created_at = created_at - interval '1 hour' WHERE id = (SELECT min(id) FROM claims)"
    )
    await count(engine)
    row = await one(
        engine, "SELECT sum((SELECT sum(n) FROM unnest(claims) n)) AS claims, sum(hits) AS hits FROM preset_demand"
    )
    late = await one(engine, "SELECT outcome FROM claims ORDER BY id LIMIT 1")
    assert (row.claims, row.hits) == (3, 2 - (late.outcome == "prebuilt"))
    assert (await one(engine, "SELECT count(DISTINCT minute) >= 2 AS apart FROM preset_demand")).apart


async def test_a_claim_counts_once_and_a_batch_its_size(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)

    async def add(claim_id: str, kind: str, second: float, **data: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(
                text("""
                    INSERT INTO events (at, kind, actor, preset_id, claim_id, data)
                    VALUES (:at, :kind, 'alice', :preset, :claim, CAST(:data AS jsonb))
                """),
                {
                    **{"at": AT + timedelta(seconds=second), "kind": kind, "preset": preset.id, "claim": claim_id},
                    "data": json.dumps(data),
                },
            )

    await add("retried", "claim_missed", 0)
    await count(engine)
    await add("retried", "claim_missed", 15)
    await add("retried", "claim_prebuilt", 25)
    await add("waited", "claim_queued", 15)
    await add("waited", "claim_prebuilt", 45)
    await add("left", "claim_queued", 16)
    await add("left", "claim_left", 50)
    await add("batch/0", "claim_missed", 31, claims=7)
    await add("batch/0", "claim_missed", 41, claims=7)
    await count(engine)
    assert list((await demand_of(engine, preset, minutes=1)).counts) == [1, 2, 0, 7, 0, 0]


async def test_concurrent_counters_count_each_claim_once(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await add_claims(engine, preset, *range(40))
    newest = (await one(engine, "SELECT max(id) AS id FROM events")).id
    counted = set(await asyncio.gather(*(count_claims(engine, newest) for _ in range(4))))
    assert newest in counted <= {newest, -1}
    assert sum((await demand_of(engine, preset)).counts) == 40


async def test_a_worker_that_is_frozen_while_it_counts_holds_up_nobody(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await add_claims(engine, preset, 1)
    newest = (await one(engine, "SELECT max(id) AS id FROM events")).id
    async with engine.connect() as frozen:
        await frozen.execute(TAKE_TURN)
        async with asyncio.timeout(10):
            assert await count_claims(engine, newest) == -1
    assert await count_claims(engine, newest) == newest
    assert sum((await demand_of(engine, preset)).counts) == 1


async def test_a_worker_that_comes_late_counts_nothing_again(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await add_claims(engine, preset, *range(40))
    newest = (await one(engine, "SELECT max(id) AS id FROM events")).id
    for up_to in (newest - 10, newest, newest - 10, newest):
        await count_claims(engine, up_to)
    assert sum((await demand_of(engine, preset)).counts) == 40


async def test_a_claim_that_commits_late_is_not_missed(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    counter = DemandCounter(engine)
    async with engine.connect() as late:
        await late.execute(
            text("INSERT INTO events (at, kind, actor, preset_id) VALUES (:at, 'claim_missed', 'alice', :preset)"),
            {"at": AT, "preset": preset.id},
        )
        await add_claims(engine, preset, 10)
        for _ in range(3):
            await counter.step()
        assert sum((await demand_of(engine, preset)).counts) == 0, "a lower number may still appear"
        await late.commit()
    for _ in range(3):
        await counter.step()
    assert list((await demand_of(engine, preset)).counts)[:2] == [1, 1]


async def test_a_restored_database_counts_on(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await do(engine, "UPDATE demand_progress SET event_id = 1000000")
    await add_claims(engine, preset, 1)
    await count(engine)
    newest = (await one(engine, "SELECT max(id) AS id FROM events")).id
    assert await read_progress(engine) == newest
    await add_claims(engine, preset, 2)
    await count(engine)
    assert sum((await demand_of(engine, preset)).counts) == 1
