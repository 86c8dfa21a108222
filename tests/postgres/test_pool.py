"""Plans and builds against a real server: they are idempotent, late ones do nothing, and no claim is deleted."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import SnapshotIsolationError, SupersededPass
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import count_prebuilds
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import BuildWaiting, begin_build, record_host
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import record_build, take_due_builds
from prebuilds.store.claims import ClaimStore
from prebuilds.store.jobs import cancel_jobs, list_jobs
from prebuilds.store.loop import pause
from prebuilds.store.pool import cancel_creations, cancel_pending_creations, create_prebuilds, delete_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus, Transition, build_id_of
from tests.builders import apply_file, make_preset
from tests.postgres.pool_steps import RULES, claim, make_ready, planned_ids, record_prebuilds, workspace_ids
from tests.rows import do, one, rows_of


async def test_a_plan_carried_out_twice_at_once_makes_each_once(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=5)
    number = await next_pass_number(engine)
    ids = await planned_ids(engine, preset.id, number, 5)
    written = await asyncio.gather(*[create_prebuilds(engine, preset.id, number, ids, RULES) for _ in range(3)])
    assert [w.workspace_ids for w in written] == [ids] * 3, "each attempt answers alike"
    assert (await one(engine, "SELECT count(*) FROM workspace_builds")).count == 5


async def test_a_late_pass_writes_nothing(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    late, later = await next_pass_number(engine), await next_pass_number(engine)
    await create_prebuilds(engine, preset.id, later, [], RULES)
    rows = await rows_of(engine)
    for write in (create_prebuilds, delete_prebuilds, cancel_creations):
        with pytest.raises(SupersededPass):
            await write(engine, preset.id, late, await planned_ids(engine, preset.id, late, 1), RULES)
    assert await rows_of(engine) == rows


@pytest.mark.parametrize("change", ["paused", "new version"])
async def test_nothing_is_created_for_what_changed_since_the_plan(engine: AsyncEngine, change: str) -> None:
    preset = await make_preset(engine)
    number = await next_pass_number(engine)
    if change == "paused":
        await pause(engine, "ops", "why")
    else:
        await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    written = await create_prebuilds(engine, preset.id, number, await planned_ids(engine, preset.id, number, 1), RULES)
    assert (written.workspace_ids, written.lost) == ([], 1)


async def test_a_claim_and_a_deletion_never_both_win(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(25):
        [target] = await make_ready(engine, preset, 1)
        number = await next_pass_number(engine)
        claimed, deleted = await asyncio.gather(
            claim(store, preset, name=f"r{n}"), delete_prebuilds(engine, preset.id, number, [target], RULES)
        )
        assert (claimed.result is not None) + len(deleted.workspace_ids) == 1


async def test_only_creations_not_begun_are_cancelled(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    waiting, begun = await record_prebuilds(engine, preset, 2)
    await begin_build(engine, build_id_of(begun, 1))
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    written = await cancel_creations(engine, preset.id, await next_pass_number(engine), [waiting, begun], RULES)
    assert (written.workspace_ids, written.lost) == ([waiting], 1)
    row = await one(
        engine,
        "SELECT w.deleted_at, b.status, b.completed_at FROM workspaces w JOIN workspace_builds b"
        " ON b.workspace_id = w.id WHERE w.id = :id",
        id=waiting,
    )
    assert (row.status, row.deleted_at) == ("canceled", row.completed_at)


async def test_a_build_begins_once_and_ends_once(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, expire_after="2h")
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    build_id = build_id_of(workspace_id, 1)
    for _ in range(2):
        facts, wanted = await begin_build(engine, build_id)
        assert wanted is not None
        assert (facts.pool, wanted.build_number) == (True, 1)
    ends = [
        await end_build(engine, build_id, BuildStatus.SUCCEEDED),
        await end_build(engine, build_id, BuildStatus.FAILED),
    ]
    assert [(e.status, e.ended_now) for e in ends] == [(BuildStatus.SUCCEEDED, True), (BuildStatus.SUCCEEDED, False)]
    assert (await begin_build(engine, build_id))[1] is None
    row = await one(engine, "SELECT * FROM workspaces WHERE id = :id", id=workspace_id)
    assert row.claim_build_id == build_id_of(workspace_id, 2)
    assert row.expires_at - row.created_at == timedelta(hours=2)


async def test_a_second_build_waits_for_the_first(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed = await claim(store, preset)
    assert claimed.result is not None
    await begin_build(engine, claimed.result.build_id)
    async with engine.begin() as connection:
        waiting = (await record_build(connection, claimed.result.workspace_id, Transition.STOP)).id
        assert (await record_build(connection, claimed.result.workspace_id, Transition.STOP)).id == waiting
    with pytest.raises(BuildWaiting):
        await begin_build(engine, waiting)
    await end_build(engine, claimed.result.build_id, BuildStatus.SUCCEEDED)
    assert (await begin_build(engine, waiting))[1] is not None


async def test_a_failed_deletion_is_recorded_again(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0)
    [workspace_id] = await make_ready(engine, preset, 1)
    number = await next_pass_number(engine)
    [build_id] = (await delete_prebuilds(engine, preset.id, number, [workspace_id], RULES)).build_ids
    await begin_build(engine, build_id)
    await end_build(engine, build_id, BuildStatus.FAILED, error="out of order")
    assert await take_due_actions(engine) == [], "not before its time"
    for table, column in (("workspaces", "next_action_at"), ("workspace_builds", "completed_at")):
        await do(engine, f"UPDATE {table} SET {column} = {column} - interval '10 seconds'")
    assert await take_due_actions(engine) == [build_id_of(workspace_id, 3)]


async def test_two_sweeps_never_take_the_same_build(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    ids = await record_prebuilds(engine, preset, 30)
    await do(engine, "UPDATE workspace_builds SET next_dispatch_at = now()")
    taken = await asyncio.gather(*[take_due_builds(engine) for _ in range(4)])
    assert sorted(b for sweep in taken for b in sweep) == sorted(build_id_of(i, 1) for i in ids)
    assert await take_due_builds(engine) == [], "each is due again later"


async def test_a_pause_withholds_the_pools_builds_and_no_others(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed = await claim(store, preset)
    await record_prebuilds(engine, preset, 3)
    await pause(engine, "ops", "why")
    await do(engine, "UPDATE workspace_builds SET next_dispatch_at = now() WHERE status = 'pending'")
    assert claimed.result is not None
    assert await take_due_builds(engine) == [claimed.result.build_id]


async def test_cancelling_the_pools_jobs_never_cancels_a_claim(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    claims = [await claim(store, preset) for _ in range(2)]
    begun, *_ = await record_prebuilds(engine, preset, 4)
    await begin_build(engine, build_id_of(begun, 1))
    pools = JobFilter(initiator="prebuilds")
    claim_builds = {c.result.build_id for c in claims if c.result is not None}
    assert not claim_builds & {job.build_id for job in await list_jobs(engine, pools)}
    assert (await cancel_jobs(engine, pools, "ops", dry_run=True)).result.canceled == 3
    assert (await cancel_jobs(engine, pools, "ops")).result.model_dump() == {"canceled": 3, "skipped": 0}
    running = JobFilter(initiator="prebuilds", status=[BuildStatus.RUNNING])
    assert (await cancel_jobs(engine, running, "ops")).build_ids == [build_id_of(begun, 1)]
    left = await list_jobs(engine, JobFilter(status=[BuildStatus.PENDING]))
    assert {job.build_id for job in left} == claim_builds
    assert len(workspace_ids(claims)) == 2


async def test_the_first_host_keeps_the_workspace(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    assert await record_host(engine, workspace_id, "a") == "a"
    assert await record_host(engine, workspace_id, "b") == "a"


async def test_a_snapshot_needs_its_isolation_and_sees_one_instant(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=9)
    async with engine.connect() as connection:
        with pytest.raises(SnapshotIsolationError):
            await snapshot_state(connection, RULES)
    async with engine.begin() as connection:
        with pytest.raises(SnapshotIsolationError, match="READ COMMITTED"):
            await snapshot_state(connection, RULES)
    async with snapshot_transaction(engine) as connection:
        before = await snapshot_state(connection, RULES)
        await record_prebuilds(engine, preset, 2)
        assert (await snapshot_state(connection, RULES)) == before
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="SERIALIZABLE")
        async with connection.begin():
            assert (await snapshot_state(connection, RULES)).presets[0].counts.starting == 2


async def test_sql_counts_as_the_planner_does(engine: AsyncEngine, store: ClaimStore) -> None:
    """Every transition in every status, at ages around both limits, claimed ones among them."""
    preset = await make_preset(engine, instances=9, expire_after="10m", standby={"paused": 1})
    ids = await make_ready(engine, preset, 60)
    await claim(store, preset)
    statuses, transitions = list(BuildStatus), list(Transition)
    mix = text("""
        UPDATE workspaces SET latest_transition = :transition, latest_status = :status, latest_build = :number,
               probe_failures = :n % 4, kept = :n % 5 = 0, latest_ended_at = now() - make_interval(mins => :n),
               created_at = now() - make_interval(mins => :age) WHERE id = :id AND claimed_at IS NULL
    """)
    async with engine.begin() as connection:
        for n, workspace_id in enumerate(ids):
            await connection.execute(
                mix,
                {
                    "id": workspace_id,
                    "n": n,
                    "age": n % 17,
                    "number": n % 2 + 1,
                    "status": statuses[n % len(statuses)],
                    "transition": transitions[n // 2 % len(transitions)],
                },
            )
        await connection.execute(text("UPDATE presets SET last_invalidated_at = now() - interval '8 minutes'"))
    async with snapshot_transaction(engine) as connection:
        rules = Rules(failed_retention=timedelta(minutes=30))
        [counted] = (await snapshot_state(connection, rules)).presets
        rows = await snapshot_preset(connection, preset.id, rules)
    assert counted.preset == rows.preset
    assert len(rows.prebuilds) == 59
    assert counted.counts == count_prebuilds(rows.preset, rows.prebuilds, rows)
    assert UUID(str(counted.preset.id)) == preset.id


async def test_a_build_cancelled_while_its_begin_waits_is_not_begun(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM workspaces WHERE id = :id FOR UPDATE"), {"id": workspace_id})
        beginning = asyncio.create_task(begin_build(engine, build_id_of(workspace_id, 1)))
        while not await waiting_for_locks(engine):
            await asyncio.sleep(0.01)
        assert await cancel_pending_creations(connection, [workspace_id], cause="meanwhile") == [workspace_id]
    facts, wanted = await beginning
    assert (facts.status, wanted) == (BuildStatus.CANCELED, None)
    row = await one(engine, "SELECT latest_status, deleted_at FROM workspaces")
    assert row.latest_status == "canceled"
    assert row.deleted_at is not None


async def waiting_for_locks(engine: AsyncEngine) -> int:
    row = await one(
        engine, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(row.count)
