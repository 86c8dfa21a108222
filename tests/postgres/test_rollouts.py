"""A new version replaces a pool step by step: bounds, outcomes, and claims that an older version serves meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NoClaimablePrebuiltWorkspaces, SupersededPass, TemplateUnavailable
from prebuilds.payloads import ClaimResult
from prebuilds.planning.generations import generations_of
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.snapshot import count_prebuilds
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.presets import invalidate
from prebuilds.store.snapshots import next_pass_number, snapshot_state, snapshot_transaction
from prebuilds.store.templates import delete_template, deprecate_template
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import (
    RULES,
    Desk,
    begin_prebuilds,
    claim,
    finish,
    got,
    make_ready,
    outcome,
    snapshot_of,
    workspace_ids,
)
from tests.postgres.rollout_steps import end_builds, members, roll, run_child, run_pass, states
from tests.rows import do, events, one

BY_PATH = ClaimTarget("acme/python/small", path=["acme", "python", "small"])


async def version(engine: AsyncEngine, number: int, instances: int = 8, **entry: Any) -> MadePreset:
    """Apply the *number*th content of one preset."""
    preset = {"name": "small", "instances": instances, "parameters": {"n": str(number)}}
    await apply_file(engine, preset | entry.pop("preset", {}), **entry)
    return await find_preset(engine)


async def filled(engine: AsyncEngine, instances: int = 8, **entry: Any) -> MadePreset:
    """Make a pool of version 1 that is full."""
    preset = await version(engine, 1, instances, **entry)
    await make_ready(engine, preset, instances)
    return preset


async def test_a_pool_is_replaced_within_its_bounds(engine: AsyncEngine) -> None:
    await filled(engine)
    await version(engine, 2)
    seen = await roll(engine)
    totals = [sum(map(sum, found.values())) for found in seen]
    ready = [sum(count for count, _ in found.values()) for found in seen]
    assert (max(totals), min(ready)) == (10, 8)
    assert seen[0] == {1: (8, 0), 2: (0, 2)}
    assert seen[-1] == {2: (8, 0)}
    assert await states(engine) == [(1, 2, "succeeded", None)]
    kinds = [data["reasons"] for _, data in await events(engine, "prebuilds_deleted")]
    assert {reason for reasons in kinds for reason in reasons} == {"replaced"}
    assert [data["progress"] for _, data in await events(engine, "rollout_progress")] == [25, 50, 75, 100]
    assert [data["to"] for _, data in await events(engine, "rollout_succeeded")] == [2]


async def test_a_bad_version_leaves_the_pool_standing_and_says_why(engine: AsyncEngine, store: ClaimStore) -> None:
    old = await filled(engine, 3)
    await version(engine, 2, 3)
    seen = await roll(engine, bad_version=2, error_type="InvalidSource")
    assert min(found[1][0] for found in seen) == 3
    assert await states(engine) == [(1, 2, "failed", "small: validation_failed")]

    for _ in range(3):  # even when claims take all that was there
        assert (await claim(store, BY_PATH)).preset_id == old.id
    assert await members(engine) == {}
    await roll(engine, bad_version=2)
    assert await members(engine) == {1: (3, 0)}, "claimed prebuilds are replaced from the previous version"

    again = await version(engine, 1, 3)
    assert again.id == old.id
    await roll(engine)
    assert [state for *_, state, _ in await states(engine)] == ["undone", "succeeded"]
    assert await members(engine) == {1: (3, 0)}


async def test_a_third_version_supersedes_the_second(engine: AsyncEngine) -> None:
    await filled(engine, 4)
    await version(engine, 2, 4)
    await run_pass(engine)
    await end_builds(engine)
    await run_pass(engine)
    assert await members(engine) == {1: (3, 0), 2: (1, 1)}
    await version(engine, 3, 4)
    seen = await roll(engine)
    assert max(sum(map(sum, found.values())) for found in seen) <= 5
    assert min(sum(count for count, _ in found.values()) for found in seen) >= 4
    assert await members(engine) == {3: (4, 0)}
    assert await states(engine) == [
        (1, 2, "superseded", "version 3 became active"),
        (1, 3, "succeeded", None),
    ]


async def test_only_replaced_pools_have_a_rollout(engine: AsyncEngine) -> None:
    small = {"name": "small", "instances": 2}
    await apply_file(engine, small)
    await apply_file(engine, small, {"name": "large", "instances": 1, "parameters": {"a": "b"}})
    await apply_file(engine, small | {"instances": 5})
    assert await states(engine) == []


@pytest.mark.parametrize("retire", [deprecate_template, delete_template])
async def test_nothing_of_a_retired_template_is_kept(engine: AsyncEngine, retire: Any) -> None:
    await filled(engine, 2)
    await version(engine, 2, 2)
    await run_pass(engine)
    await end_builds(engine)
    await retire(engine, "acme/python", "ops")
    await roll(engine)
    assert await members(engine) == {}
    assert [state for *_, state, _ in await states(engine)] == [
        "superseded" if retire is delete_template else "running"
    ]


async def test_counts_and_rows_agree_and_any_generation_gives_the_plan(engine: AsyncEngine) -> None:
    old = await filled(engine, 6)
    new = await version(engine, 2, 6)
    await run_pass(engine)
    await end_builds(engine)
    async with snapshot_transaction(engine) as connection:
        by_id = {item.preset.id: item for item in (await snapshot_state(connection, RULES)).presets}
    for preset in (old, new):
        pool = await snapshot_of(engine, preset)
        item = by_id[preset.id]
        assert (item.preset, item.history, item.lately) == (pool.preset, pool.history, pool.lately)
        assert item.counts == count_prebuilds(pool.preset, pool.prebuilds, pool)
    plans = [plan_preset(await snapshot_of(engine, preset), 7) for preset in (old, new)]
    assert [len(plan.create) for plan in plans] == [2, 2]
    assert plans[0].create == plans[1].create
    assert plans[0].delete == plans[1].delete
    assert (plans[0].create_for, plans[1].create_for) == (new.id, None)
    await run_child(engine, old.id)  # as a nudge that names the old one does
    assert await members(engine) == {1: (4, 0), 2: (2, 2)}


async def test_a_late_pass_of_one_generation_writes_nothing_to_another(engine: AsyncEngine) -> None:
    old = await filled(engine, 2)
    new = await version(engine, 2, 2)
    late = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, new), late)
    await run_child(engine, old.id)
    with pytest.raises(SupersededPass):
        await create_prebuilds(engine, new.id, late, plan.create, RULES)
    assert await members(engine) == {1: (2, 0), 2: (0, 1)}


async def test_members_claimed_within_the_last_lead_time_are_counted(engine: AsyncEngine, store: ClaimStore) -> None:
    await filled(engine, 4)
    new = await version(engine, 2, 4)
    await do(engine, "UPDATE workspace_builds SET created_at = completed_at - interval '1 hour'")
    await do(engine, "UPDATE workspaces SET created_at = created_at - interval '1 hour'")
    long_ago, _ = workspace_ids([await claim(store, BY_PATH), await claim(store, BY_PATH)])
    earlier = "UPDATE workspaces SET claimed_at = claimed_at - interval '2 hours' WHERE id = :id"
    await do(engine, earlier, id=long_ago)
    found = generations_of(await snapshot_of(engine, new))
    assert found is not None
    assert (found.pool.lately, found.pool.ready) == (1, 2)
    async with snapshot_transaction(engine) as connection:
        taken = await snapshot_state(connection, RULES)
    assert {item.lately for item in taken.presets} == {1}
    plan = plan_pass(replace(taken, paused=False))
    assert [one.has_work for one in plan.decisions] == [False, True]


# --- Claims -----------------------------------------------------------------------------------------------------------


async def test_an_older_version_serves_claims_by_name_until_the_new_one_is_ready(
    engine: AsyncEngine, store: ClaimStore, desk: Desk
) -> None:
    old = await filled(engine, 3)
    new = await version(engine, 2, 3)
    first = await desk.ask("c1")
    assert isinstance(first, ClaimResult)
    assert (first.preset_id, first.version) == (old.id, 1)
    assert (await desk.ask("c1", name=first.name, run=desk.run_of("c1"))) == first, "the same answer again"
    row = await one(
        engine,
        """SELECT b.preset_id, v.number FROM workspace_builds b JOIN template_versions v ON v.id = b.template_version_id
            WHERE b.id = :id""",
        id=first.build_id,
    )
    assert tuple(row) == (old.id, 1), "the hand-over is the older version's"
    await make_ready(engine, new, 1)
    second = await desk.ask("c2")
    assert isinstance(second, ClaimResult)
    assert (second.preset_id, second.version) == (new.id, None)
    assert "version" not in second.model_dump()
    for target, changes in ((str(old.id), {}), (str(new.id), {}), ("acme/python/small", {"parameters": {"n": "2"}})):
        refused = await outcome(desk.ask("by-id", preset=target, **changes))
        kind = TemplateUnavailable if target == str(old.id) else NoClaimablePrebuiltWorkspaces
        assert isinstance(refused, kind), "a claim by id or with values gets nothing else"
    batch = await desk.ask_all("b", ["x", "y"])
    assert [c.version for c in batch.claims] == [1, 1]
    assert isinstance(await outcome(desk.ask("c3")), NoClaimablePrebuiltWorkspaces)


@pytest.mark.parametrize(
    "policy", [{"serve_old": False}, {"strategy": "recreate"}, {"serve_old": True, "max_surge": 1}]
)
async def test_an_older_version_serves_only_if_the_policy_allows_it(
    engine: AsyncEngine, store: ClaimStore, policy: dict[str, Any]
) -> None:
    await filled(engine, 1)
    await version(engine, 2, 1, rollout=policy)
    served = (await claim(store, BY_PATH)).result
    assert (served is not None) == (policy.get("serve_old", False))


async def test_invalidation_counts_for_older_versions_too(engine: AsyncEngine, store: ClaimStore) -> None:
    await filled(engine, 2)
    await version(engine, 2, 2)
    assert (await invalidate(engine, "ops", preset="acme/python/small", template=None)).prebuilds == 2
    assert (await claim(store, BY_PATH)).result is None
    await version(engine, 1, 2)
    await version(engine, 2, 2)
    assert (await invalidate(engine, "ops", preset=None, template="acme/python")).prebuilds == 2


async def test_a_waiter_is_served_by_the_first_ready_version(engine: AsyncEngine, desk: Desk) -> None:
    old = await version(engine, 1, 1)
    [begun] = await begin_prebuilds(engine, old, 1)
    await version(engine, 2, 1)
    await desk.wait("w1")
    await finish(engine, begun)
    place = await desk.look("w1")
    assert got(place) == begun
    assert place.result is not None
    assert place.result.version == 1


async def test_values_for_a_claim_go_only_where_they_are_known(engine: AsyncEngine, desk: Desk) -> None:
    await filled(engine, 2, preset={"claim_parameters": ["token"]})
    await version(engine, 2, 2, preset={"claim_parameters": ["token", "key"]})
    assert isinstance(await outcome(desk.ask("c1", claim_parameters={"key": "k"})), NoClaimablePrebuiltWorkspaces)
    assert isinstance(await desk.ask("c2"), ClaimResult)
