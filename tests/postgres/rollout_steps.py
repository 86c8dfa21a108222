"""Takes a rollout on, pass by pass and build by build, without workers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.rollout_outcomes import judge_rollouts
from prebuilds.planning.rules import Rules
from prebuilds.provisioners.base import Provisioned
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.canaries import judge_canaries, read_canaries
from prebuilds.store.pool import cancel_creations, create_prebuilds, delete_prebuilds
from prebuilds.store.rollouts import record_outcomes
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.store.standby import move_prebuilds
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus
from tests.postgres.pool_steps import RULES

UNFINISHED = text("""
    SELECT b.id, b.workspace_id, b.transition, v.number AS version
      FROM workspace_builds b JOIN template_versions v ON v.id = b.template_version_id
     WHERE b.status IN ('pending', 'running') ORDER BY b.created_at, b.id
""")
MEMBERS = text(f"""
    SELECT v.number AS version, count(*) FILTER (WHERE w.claimable_preset_id IS NOT NULL) AS ready,
           count(*) FILTER (WHERE w.latest_status IN ('pending', 'running')) AS starting
      FROM workspaces w JOIN presets p ON p.id = w.preset_id
      JOIN template_versions v ON v.id = p.template_version_id
     WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.latest_transition = 'start'
       AND w.latest_status <> 'failed'
     GROUP BY v.number
""")


async def run_pass(engine: AsyncEngine, rules: Rules = RULES) -> int:
    """Run one pass over everything, as the loop does it. Returns how many presets had work."""
    async with snapshot_transaction(engine) as connection:
        plan = plan_pass(await snapshot_state(connection, rules))
    await judge_canaries(engine, await read_canaries(engine, plan), rules)
    await record_outcomes(engine, judge_rollouts(plan))
    working = plan.presets_to_reconcile(500)
    for preset_id in working:
        await run_child(engine, preset_id, rules)
    return len(working)


async def run_child(engine: AsyncEngine, preset_id: UUID, rules: Rules = RULES) -> None:
    """Plan one preset and carry the plan out."""
    number = await next_pass_number(engine)
    async with snapshot_transaction(engine) as connection:
        plan = plan_preset(await snapshot_preset(connection, preset_id, rules), number)
    if plan.resume or plan.pause:
        await move_prebuilds(engine, preset_id, number, rules, resume=plan.resume, pause=plan.pause)
    await delete_prebuilds(engine, preset_id, number, plan.delete, rules)
    await cancel_creations(engine, preset_id, number, plan.cancel, rules)
    await create_prebuilds(engine, preset_id, number, plan.create, rules, create_for=plan.create_for)


async def end_builds(
    engine: AsyncEngine, *, bad_version: int | None = None, error_type: str = "ProvisionFailed"
) -> None:
    """End every unfinished build: the starts of *bad_version* fail, all others succeed."""
    async with engine.connect() as connection:
        found = (await connection.execute(UNFINISHED)).all()
    for build in found:
        await begin_build(engine, build.id)
        if build.transition == "start" and build.version == bad_version:
            await end_build(engine, build.id, BuildStatus.FAILED, error="no", error_type=error_type)
        elif build.transition == "start":
            made = Provisioned(address=f"http://{build.workspace_id}")
            await end_build(engine, build.id, BuildStatus.SUCCEEDED, provisioned=made)
        else:
            await end_build(engine, build.id, BuildStatus.SUCCEEDED)


async def members(engine: AsyncEngine) -> dict[int, tuple[int, int]]:
    """Return the ready members and those under creation, by version."""
    async with engine.connect() as connection:
        return {row.version: (row.ready, row.starting) for row in await connection.execute(MEMBERS)}


async def states(engine: AsyncEngine) -> list[tuple[int, int, str, str | None]]:
    """Return every rollout, oldest first: its two versions, its state, and the reason."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT from_number, to_number, state, reason FROM rollouts ORDER BY started_at")
        )
        return [tuple(row) for row in rows]


async def roll(engine: AsyncEngine, rounds: int = 40, **ending: Any) -> list[dict[int, tuple[int, int]]]:
    """Run passes and end builds until nothing is left to do. Returns the members after each step."""
    seen = []
    for _ in range(rounds):
        worked = await run_pass(engine)
        seen.append(await members(engine))
        await end_builds(engine, **ending)
        seen.append(await members(engine))
        if not worked:
            return seen
    raise AssertionError("it does not end")
