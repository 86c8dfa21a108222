"""Rollouts as people see and change them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, TemplateNotFound
from prebuilds.store import rollout_changes
from prebuilds.store.rollout_list import list_rollouts, read_rollout
from prebuilds.views.rollouts import RolloutPool
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import RULES, make_ready
from tests.postgres.rollout_steps import end_builds, members, roll, run_pass, states
from tests.rows import events, one

TEMPLATE = "acme/python"


async def version(engine: AsyncEngine, number: int, instances: int = 4, **preset: Any) -> MadePreset:
    entry = {"name": "small", "instances": instances, "parameters": {"n": str(number)}} | preset
    await apply_file(engine, entry, {"name": "kept", "instances": 1})
    return await find_preset(engine)


@pytest.fixture
async def old(engine: AsyncEngine) -> MadePreset:
    """Version 1, whole; version 2 is active and a step further."""
    preset = await version(engine, 1)
    await make_ready(engine, preset, 4)
    await make_ready(engine, await find_preset(engine, preset="kept"), 1)
    await version(engine, 2)
    await run_pass(engine)
    await end_builds(engine)
    return preset


async def test_a_rollout_is_shown_with_its_pools(engine: AsyncEngine, old: MadePreset) -> None:
    row = await read_rollout(engine, TEMPLATE, RULES)
    assert (row.from_version, row.to_version, row.state, row.strategy, row.started_by) == (
        *(1, 2, "running", "surge"),
        "tester",
    )
    assert row.pools == [
        RolloutPool(preset="small", desired=4, new_ready=1, new_starting=0, old_ready=4, old_starting=0, held=None)
    ]
    await roll(engine)
    row = await read_rollout(engine, TEMPLATE, RULES)
    assert (row.state, row.progress, row.pools) == ("succeeded", 100, [])
    await version(engine, 3)
    page = await list_rollouts(engine, TEMPLATE, limit=1)
    assert [one.to_version for one in page.rows] == [3]
    assert [one.id for one in (await list_rollouts(engine, None, after=page.next)).rows] == [row.id]


async def test_a_paused_rollout_stands_and_goes_on(engine: AsyncEngine, old: MadePreset) -> None:
    assert await rollout_changes.pause_rollout(engine, TEMPLATE, "ops")
    assert await rollout_changes.pause_rollout(engine, TEMPLATE, "ops") == []
    await roll(engine)
    assert await members(engine) == {1: (4, 0), 2: (2, 0)}, "with the other preset's one; nothing was added or removed"
    assert (await read_rollout(engine, TEMPLATE, RULES)).state == "paused"
    assert await rollout_changes.pause_rollout(engine, TEMPLATE, "ops", resume=True)
    await roll(engine)
    assert await members(engine) == {2: (5, 0)}
    assert [state for *_, state, _ in await states(engine)] == ["succeeded"]
    kinds = [kind for kind in ("rollout_paused", "rollout_resumed") for _ in await events(engine, kind)]
    assert kinds == ["rollout_paused"] * 2 + ["rollout_resumed"] * 2, "once for each preset of the version"


@pytest.mark.parametrize("whole", [False, True])
async def test_undoing_goes_back_with_the_policy_of_now(engine: AsyncEngine, old: MadePreset, whole: bool) -> None:
    if whole:
        await roll(engine)
    await version(engine, 2, 3, expire_after="2h")  # policy alone
    await rollout_changes.undo_rollout(engine, TEMPLATE, "ops")
    assert (await find_preset(engine)).id == old.id
    row = await one(engine, "SELECT desired_instances, expire_after FROM presets WHERE id = :id", id=old.id)
    assert (row.desired_instances, row.expire_after.total_seconds()) == (3, 7200)
    kept = await find_preset(engine, preset="kept")
    assert (kept.version_id, (await find_preset(engine)).version_id) == (old.version_id, old.version_id)
    seen = await roll(engine)
    assert min(sum(ready for ready, _ in found.values()) for found in seen) >= 4
    assert await members(engine) == {1: (4, 0)}
    first = "succeeded" if whole else "undone"
    assert [state for *_, state, _ in await states(engine)] == [first, "succeeded"]
    with pytest.raises(InvalidInput, match="no rollout of"):
        await rollout_changes.pause_rollout(engine, TEMPLATE, "ops")


async def test_an_impossible_rollout_change_is_refused_and_changes_nothing(engine: AsyncEngine) -> None:
    await version(engine, 1)
    for change in (rollout_changes.pause_rollout, rollout_changes.undo_rollout):
        with pytest.raises(InvalidInput, match="has had no rollout"):
            await change(engine, TEMPLATE, "ops")
        with pytest.raises(TemplateNotFound):
            await change(engine, "acme/none", "ops")
    await version(engine, 2)
    await apply_file(engine, {"name": "small", "instances": None, "parameters": {"n": "3"}})
    with pytest.raises(InvalidInput, match="is not active any more"):
        await rollout_changes.undo_rollout(engine, TEMPLATE, "ops")
