"""Limits of presets and organizations hold under the locks, also with concurrent writers."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.operations.limits import LimitOperations
from prebuilds.planning.plan import ReconcilePlan, plan_preset
from prebuilds.store.pool import create_prebuilds, delete_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from prebuilds.templates import apply
from tests.builders import MadePreset, apply_file, find_preset, make_preset, template_file
from tests.postgres.pool_steps import RULES, make_ready, snapshot_of
from tests.postgres.rollout_steps import end_builds, members, run_pass
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


async def test_generations_without_a_common_plan_keep_to_one_max_concurrent(engine: AsyncEngine) -> None:
    small = {"name": "small", "instances": 4}
    await apply_file(engine, small | {"parameters": {"n": "1"}})
    old = await find_preset(engine)
    await make_ready(engine, old, 4)
    await apply_file(engine, small | {"parameters": {"n": "2"}, "max_concurrent": 2}, rollout={"strategy": "recreate"})
    new = await find_preset(engine)
    plans = [await plan(engine, preset) for preset in (old, new)]
    assert [(len(one.delete), len(one.create)) for one in plans] == [(1, 0), (0, 1)], "half for each"
    await asyncio.gather(*(carry_out(engine, one) for one in plans for _ in range(2)))
    assert (await one(engine, UNDER_WAY)).count == 2, "neither one makes the other a superseded pass"
    await end_builds(engine)
    versions: dict[int, tuple[int, int]] = {}
    for _ in range(30):
        worked = await run_pass(engine)
        assert (await one(engine, UNDER_WAY)).count <= 2
        await end_builds(engine)
        versions = await members(engine)
        if not worked:
            break
    assert versions == {2: (4, 0)}


MEMBERS = """
    SELECT count(*) AS count FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.name = 'prebuilds' AND w.deleted_at IS NULL AND w.latest_transition = 'start'
       AND w.latest_status IN ('pending', 'running', 'canceling', 'succeeded')
"""


async def make_pools(engine: AsyncEngine, *instances: int, **limits: int) -> list[MadePreset]:
    """Make one organization's presets p0, p1 and so on, with these limits."""
    presets = [{"name": f"p{n}", "instances": count} for n, count in enumerate(instances)]
    await apply_file(engine, *presets, limits=limits)
    return [await find_preset(engine, preset=f"p{n}") for n in range(len(instances))]


async def test_presets_of_one_organization_never_exceed_its_pool_members_together(engine: AsyncEngine) -> None:
    pools = await make_pools(engine, 9, 9, 3, pool_members=7)
    for _ in range(3):
        plans = [await plan(engine, pool) for pool in pools]  # each planned before the others have created anything
        await asyncio.gather(*(carry_out(engine, one) for one in plans for _ in range(2)))
        assert (await one(engine, MEMBERS)).count == 7
    found = [len((await snapshot_of(engine, pool)).prebuilds) for pool in pools]
    assert found == [3, 3, 1], "in proportion to what each should have"
    assert (await plan(engine, pools[0])).held == "pool_members"


async def test_plans_for_the_room_of_deletions_that_failed_create_nothing(engine: AsyncEngine) -> None:
    [pool] = await make_pools(engine, 3, pool_members=3)
    await make_ready(engine, pool, 3)
    await do(engine, "UPDATE presets SET last_invalidated_at = now() WHERE id = :id", id=pool.id)
    planned = await plan(engine, pool)
    assert (len(planned.delete), len(planned.create)) == (3, 3)
    written = await create_prebuilds(engine, pool.id, planned.pass_number, planned.create, RULES)
    assert written.workspace_ids == []
    await carry_out(engine, planned)
    assert (await one(engine, MEMBERS)).count == 3


async def test_a_lowered_limit_shrinks_the_pools_and_no_claimed_workspace(engine: AsyncEngine) -> None:
    pools = await make_pools(engine, 4, 4)
    for pool in pools:
        await make_ready(engine, pool, 4)
    await do(
        engine,
        """
        UPDATE workspaces SET owner_id = (SELECT id FROM users WHERE name = 'alice'), claimable_preset_id = NULL,
                              claim_build_id = NULL, claimed_at = now()
         WHERE id = (SELECT id FROM workspaces WHERE preset_id = :id ORDER BY created_at, id LIMIT 1)
        """,
        id=pools[0].id,
    )
    await make_pools(engine, 4, 4, pool_members=4)
    plans = [await plan(engine, pool) for pool in pools]
    assert [(len(one.create), len(one.delete), one.held) for one in plans] == [
        (0, 1, "pool_members"),
        (0, 2, None),
    ]
    await asyncio.gather(*(carry_out(engine, one) for one in plans))
    assert (await one(engine, MEMBERS)).count == 4
    owners = await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL AND deleted_at IS NULL")
    assert owners.count == 1
    reasons = await one(engine, "SELECT data -> 'reasons' AS it FROM events WHERE kind = 'prebuilds_deleted' LIMIT 1")
    assert list(reasons.it) == ["pool_members"]


async def test_limits_change_in_place_and_are_left_or_removed_as_the_file_says(engine: AsyncEngine) -> None:
    preset = {"name": "small", "instances": 2}
    await apply_file(engine, preset, limits={"pool_members": 5})
    lowered = template_file(preset, limits={"pool_members": 3})
    for dry_run in (True, False):
        result = await apply(engine, lowered, actor="ops", dry_run=dry_run)
        assert [(c.what, c.field, c.old, c.new) for c in result.changes] == [
            ("organization acme", "limits.pool_members", 5, 3)
        ]
        assert result.updated == ["organization acme"]
        assert not result.versions
    assert not (await apply_file(engine, preset)).changed, "a file without limits leaves them"
    assert (await snapshot_of(engine, await find_preset(engine))).preset.pool_members == 3
    await apply_file(engine, preset, limits={})
    assert (await snapshot_of(engine, await find_preset(engine))).share is None


async def test_the_usage_of_each_limit_is_listed(engine: AsyncEngine) -> None:
    pools = await make_pools(engine, 2, 1, pool_members=3)
    await make_preset(engine, organization="other")
    await make_ready(engine, pools[0], 2)
    [row] = (await LimitOperations(engine).list()).rows
    assert (row.organization, row.limit, row.maximum, row.used, row.reached) == ("acme", "pool_members", 3, 2, False)
    await carry_out(engine, await plan(engine, pools[1]))
    [row] = (await LimitOperations(engine).list()).rows
    assert (row.used, row.reached) == (3, True)


async def test_a_rollout_keeps_to_the_limits_of_its_preset_and_organization(engine: AsyncEngine) -> None:
    small = {"name": "small", "instances": 4}
    await apply_file(engine, small | {"parameters": {"n": "1"}}, limits={"pool_members": 5})
    await make_ready(engine, await find_preset(engine), 4)
    new = small | {"parameters": {"n": "2"}, "max_concurrent": 1}
    await apply_file(engine, new, rollout={"max_surge": 3, "max_unavailable": 0})
    versions: dict[int, tuple[int, int]] = {}
    for _ in range(60):
        worked = await run_pass(engine)
        assert (await one(engine, UNDER_WAY)).count <= 1
        assert (await one(engine, MEMBERS)).count <= 5
        await end_builds(engine)
        versions = await members(engine)
        assert sum(ready for ready, _ in versions.values()) >= 4
        if not worked:
            break
    assert versions == {2: (4, 0)}
