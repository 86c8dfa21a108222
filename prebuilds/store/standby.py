"""Moves prebuilds between the tiers of a pool: pauses ready ones and resumes paused ones, as a plan says.

As with the other writes of a pass, the preset's row is the fence, and the pool is planned again behind it. A prebuild
that was claimed meanwhile has another owner, and is skipped. A claim under way has locked the row; the statement waits
for it and then sees the new owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.plan import plan_preset
from prebuilds.planning.rules import Rules
from prebuilds.store.kept_traces import keep_trace
from prebuilds.store.pool import RECORD_BUILDS, FencedPreset, Written, enter_fence
from prebuilds.vocabulary import PREBUILDS_USER_ID, Stage, Transition, build_id_of

LOCK_MOVABLE = text(f"""
    SELECT id, latest_build, preset_id FROM workspaces
     WHERE id = ANY(CAST(:ids AS uuid[])) AND preset_id = ANY(CAST(:presets AS uuid[]))
       AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL AND quarantined_at IS NULL
       AND latest_transition = :settled AND latest_status = 'succeeded'
     ORDER BY id FOR NO KEY UPDATE
""")
BEGIN_MOVES = text("""
    UPDATE workspaces w
       SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL, resume_build_id = NULL,
           next_action_at = NULL, latest_build = n.number, latest_transition = :transition, latest_status = 'pending',
           latest_ended_at = NULL
      FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS n (id, number) WHERE w.id = n.id
""")
RECORD_PAUSES = text(RECORD_BUILDS.format(transition=Transition.PAUSE.value, stage=Stage.NONE.value))
RECORD_RESUMES = text(RECORD_BUILDS.format(transition=Transition.START.value, stage=Stage.RESUME.value))


async def move_prebuilds(
    engine: AsyncEngine,
    preset_id: UUID,
    pass_number: int,
    rules: Rules,
    *,
    resume: Sequence[UUID],
    pause: Sequence[UUID],
) -> Written:
    """Record a resume for each of *resume* and a pause for each of *pause*, as far as the pool still wants it.

    Raises:
        SupersededPass: A later pass of the preset has written already.
    """
    async with enter_fence(engine, preset_id, pass_number, rules) as fenced:
        plan = plan_preset(fenced.snapshot, pass_number)
        resumed = await _move(fenced, [i for i in resume if i in plan.resume], resumes=True)
        paused = await _move(fenced, [i for i in pause if i in plan.pause], resumes=False)
    moved = Written([*resumed.workspace_ids, *paused.workspace_ids], [*resumed.build_ids, *paused.build_ids])
    return Written(moved.workspace_ids, moved.build_ids, lost=len(resume) + len(pause) - len(moved.workspace_ids))


async def _move(fenced: FencedPreset, ids: Sequence[UUID], *, resumes: bool) -> Written:
    if not ids:
        return Written([], [])
    settled, transition = (Transition.PAUSE, Transition.START) if resumes else (Transition.START, Transition.PAUSE)
    wanted = {"ids": list(ids), "presets": list(fenced.locked), "settled": settled}
    rows = (await fenced.connection.execute(LOCK_MOVABLE, wanted)).all()
    if not rows:
        return Written([], [])
    moved, numbers = [row.id for row in rows], [row.latest_build + 1 for row in rows]
    builds = [build_id_of(i, number) for i, number in zip(moved, numbers, strict=True)]
    values = {"ids": moved, "numbers": numbers, "build_ids": builds}
    await keep_trace(fenced.connection)
    await fenced.connection.execute(BEGIN_MOVES, {"ids": moved, "numbers": numbers, "transition": transition})
    await fenced.connection.execute(RECORD_RESUMES if resumes else RECORD_PAUSES, values)
    for generation in sorted({row.preset_id for row in rows}):
        of_it = {"workspaces": [row.id for row in rows if row.preset_id == generation]}
        await fenced.record_event("prebuilds_resumed" if resumes else "prebuilds_paused", of_it, generation)
    return Written(moved, builds)
