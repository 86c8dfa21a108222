"""Pools as the page reads them; no reading grows with the history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import jobs, pools
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.logs import Line, append_lines
from prebuilds.store.snapshots import snapshot_transaction
from prebuilds.vocabulary import build_id_of
from tests.builders import MadePreset, make_preset
from tests.postgres.pool_steps import begin_prebuilds, claim, fail, make_ready
from tests.rows import do, one

OLDEST = -1_000_000
"""The id of the oldest event of a history that is added."""


async def claims_of(engine: AsyncEngine, database_url: str, preset: MadePreset, number: int) -> None:
    async with await create_claim_pool(database_url, size=2) as pool:
        store = ClaimStore(pool, enabled=True)
        for _ in range(number):
            await claim(store, preset)


async def test_the_last_hour_is_counted(engine: AsyncEngine, database_url: str) -> None:
    preset, other = await make_preset(engine), await make_preset(engine, "large", template="java")
    await make_ready(engine, preset, 3)
    await claims_of(engine, database_url, preset, 4)
    await fail(engine, preset, 1)
    await do(engine, "UPDATE workspace_builds SET completed_at = created_at + interval '3 s' WHERE status='succeeded'")
    builds = "UPDATE workspace_builds SET status = 'succeeded', completed_at = created_at + interval '1 s'"
    await do(engine, f"{builds} WHERE stage = 'claim'")
    found = await pools.read_hour(engine, [preset.id, other.id])
    hour = found[preset.id]
    assert (hour.claims, hour.hits) == (4, 3)
    assert hour.claim_p50_seconds is not None
    assert 1 <= hour.claim_p50_seconds < 1.5, "until the workspace was handed over"
    assert (hour.builds, hour.builds_failed, hour.build_p50_seconds, hour.build_p95_seconds) == (4, 1, 3, 3)
    assert [slot.claims for slot in hour.slots] == [0] * 11 + [4]
    assert (found[other.id].claims, found[other.id].build_p50_seconds) == (0, None)

    await do(engine, "UPDATE events SET at = at - interval '2 hours'")
    await do(engine, "UPDATE workspace_builds SET created_at = created_at - interval '2 hours'")
    assert (await pools.read_hour(engine, [preset.id]))[preset.id].claims == 0
    await make_ready(engine, preset, 1)
    await claims_of(engine, database_url, preset, 2)
    hour = (await pools.read_hour(engine, [preset.id]))[preset.id]
    assert (hour.claims, hour.hits, hour.builds) == (2, 1, 1)


async def test_a_pools_members_and_failures_are_read(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    [begun] = await begin_prebuilds(engine, preset, 1)
    [failed] = await fail(engine, preset, 1)
    build_id = build_id_of(failed, 1)
    at = (await one(engine, "SELECT now() AS at")).at
    await append_lines(engine, build_id, 1, [Line(n, at, f"line {n}") for n in range(1, 21)])
    async with snapshot_transaction(engine) as connection:
        members = {one.id: one for one in await pools.read_members(connection, [preset.id])}
        [failure] = await pools.read_failures(connection, [preset.id])
        unfinished = await jobs.list_unfinished(connection)
        [count] = await jobs.count_unfinished(connection)
    assert (members[ready].ready, members[ready].status) == (True, "running")
    assert (members[begun].ready, members[begun].status) == (False, "starting")
    assert members[failed].status == "failed"
    assert (failure.build_id, failure.lines) == (build_id, [f"line {n}" for n in range(13, 21)])
    assert (count.organization, count.status, count.builds) == ("acme", "running", 1)
    assert [job.build_id for job in unfinished] == [build_id_of(begun, 1)]


async def plan_of(engine: AsyncEngine, statement: Any, **values: Any) -> list[dict[str, Any]]:
    """All nodes of a statement's plan, as it ran."""
    async with engine.connect() as connection:
        explained = await connection.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), values)

    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *[below for child in node.get("Plans", []) for below in nodes(child)]]

    return nodes(explained[0]["Plan"])


async def test_no_reading_grows_with_the_history(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    await begin_prebuilds(engine, preset, 1)
    await claims_of(engine, database_url, preset, 2)
    await _add_history(engine, preset.id, 20_000)
    async with engine.connect() as connection:
        since = await connection.scalar(pools.NOW)
        first = await connection.scalar(pools.FIRST_EVENT, {"since": since})
    assert first == OLDEST + 20_000, "the search skips older rows"
    presets = {"presets": [preset.id]}
    plans = {
        "first": await plan_of(engine, pools.FIRST_EVENT, since=since),
        "claims": await plan_of(engine, pools.CLAIMS, since=since, first=first, **presets),
        "builds": await plan_of(engine, pools.BUILDS, since=since, **presets),
        "members": await plan_of(engine, pools.MEMBERS, **presets),
        "failures": await plan_of(engine, pools.FAILURES, **presets),
        "unfinished": await plan_of(engine, jobs.LIST_UNFINISHED),
        "counts": await plan_of(engine, jobs.COUNT_UNFINISHED),
        "waiting": await plan_of(engine, pools.WAITING_SINCE),
    }
    for name, nodes in plans.items():
        read = [
            (node["Node Type"], node.get("Relation Name"), node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            for node in nodes
            if node.get("Relation Name") in ("events", "workspace_builds", "workspaces", "claims", "build_logs")
        ]
        assert all(rows < 100 for _, _, rows in read), (name, read)


async def _add_history(engine: AsyncEngine, preset_id: UUID, number: int) -> None:
    """Ended builds and claims' events of yesterday, which stand before those of today."""
    values = {"preset": preset_id, "number": number, "age": timedelta(days=1)}
    await do(
        engine,
        """
        INSERT INTO events (id, at, kind, actor, preset_id) OVERRIDING SYSTEM VALUE
        SELECT :oldest + n - 1, now() - CAST(:age AS interval), 'claim_missed', 'x', :preset
          FROM generate_series(1, CAST(:number AS int)) n
        """,
        **values,
        oldest=OLDEST,
    )
    await do(
        engine,
        """
        INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                      template_version_id, created_at, started_at, completed_at)
        SELECT gen_random_uuid(), b.workspace_id, 1000 + n, 'start', 'none', 'succeeded', b.initiator_id, :preset,
               b.template_version_id, now() - CAST(:age AS interval), now(), now()
          FROM (SELECT * FROM workspace_builds LIMIT 1) b, generate_series(1, CAST(:number AS int)) n
        """,
        **values,
    )
    await do(engine, "ANALYZE")
