"""Carries out plans: creates, deletes and cancels prebuilds, each in one transaction behind a fence.

The fence is the preset's row. It accepts a pass's writes only if no later pass has written, so a frozen activity that
wakes up late changes nothing. Behind the fence the pool is read and planned again. A pass deletes the ids that both
plans have, and creates the first of the planned ids, as many as the new plan has. While the row is locked, nothing can
enlarge the pool or change the policy, so no pass creates or deletes too much.

While a rollout is open, a pass writes to all generations of a pool, and the fence is the rows of all their presets.
Where `max_concurrent` counts generations that are planned alone, their rows are locked, too, so that they take turns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import SupersededPass
from prebuilds.planning.generations import generations_of
from prebuilds.planning.plan import deletions, plan_preset, prebuild_name, state_of
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot
from prebuilds.store.events import record_event
from prebuilds.store.kept_traces import keep_trace
from prebuilds.store.limits import lock_members
from prebuilds.store.snapshots import read_preset
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID, build_id_of

# The preset is locked before the template, so that no version is activated and no template is deprecated or deleted
# while a pass writes.
FENCE = text("""
    UPDATE presets SET last_pass = :pass WHERE id = :preset_id AND last_pass <= :pass RETURNING template_version_id
""")
# All generations of the preset's pool if a rollout plans them together or a limit counts them all; otherwise no rows.
FIND_GENERATIONS = text("""
    WITH pool AS (
        SELECT g.id, g.max_concurrent,
               EXISTS (SELECT FROM rollouts r JOIN templates t ON t.id = r.template_id
                        WHERE r.template_id = p.template_id AND r.state IN ('running', 'paused', 'failed')
                          AND coalesce(t.rollout ->> 'strategy', 'surge') = 'surge') AS rolls
          FROM presets p JOIN presets g ON g.template_id = p.template_id AND g.name = p.name WHERE p.id = :preset_id
    )
    SELECT id, rolls FROM pool WHERE rolls OR EXISTS (SELECT FROM pool WHERE max_concurrent IS NOT NULL)
""")
LOCK_GENERATIONS = text("""
    SELECT id, last_pass FROM presets WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
""")
PASS_GENERATIONS = text("UPDATE presets SET last_pass = :pass WHERE id = ANY(CAST(:ids AS uuid[]))")
LOCK_TEMPLATE = text("""
    SELECT t.id AS template_id, t.organization_id, o.limits ? 'pool_members' AS limits_members
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE p.id = :preset_id FOR SHARE OF t
""")

CAPACITY_LOCK = 0x7072656275696C63  # "prebuilc": with a limit on pending builds, one pass at a time adds to them
LOCK_CAPACITY = text("SELECT pg_advisory_xact_lock(:key)")
COUNT_PENDING = text(f"""
    SELECT count(*) FROM workspace_builds WHERE status = 'pending' AND initiator_id = '{PREBUILDS_USER_ID}'
""")

EXISTING = text("SELECT id FROM workspaces WHERE id = ANY(CAST(:ids AS uuid[]))")
CREATE_WORKSPACES = text(f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status)
    SELECT n.id, :organization_id, '{PREBUILDS_USER_ID}', n.name, :template_id, p.template_version_id, p.id,
           1, 'start', 'pending'
      FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[])) AS n (id, name), presets p WHERE p.id = :preset_id
""")
RECORD_BUILDS = f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    SELECT n.id, n.workspace_id, n.number, '{{transition}}', '{{stage}}', '{PREBUILDS_USER_ID}', p.id,
           p.template_version_id, now() + interval '1 second'
      FROM unnest(CAST(:build_ids AS uuid[]), CAST(:ids AS uuid[]), CAST(:numbers AS int[]))
           AS n (id, workspace_id, number)
      JOIN workspaces w ON w.id = n.workspace_id JOIN presets p ON p.id = w.preset_id
"""
RECORD_CREATIONS = text(RECORD_BUILDS.format(transition="start", stage="create"))
RECORD_DELETIONS = text(RECORD_BUILDS.format(transition="delete", stage="none"))

# A prebuild that was claimed meanwhile has another owner, and is skipped. A claim under way has locked the row; the
# statement waits for it and then sees the new owner.
LOCK_DELETABLE = text(f"""
    SELECT id, latest_build, preset_id FROM workspaces
     WHERE id = ANY(CAST(:ids AS uuid[])) AND preset_id = ANY(CAST(:presets AS uuid[]))
       AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL AND quarantined_at IS NULL
       AND latest_transition <> 'delete' AND latest_status IN ('succeeded', 'failed', 'canceled')
     ORDER BY id FOR NO KEY UPDATE
""")
BEGIN_DELETIONS = text("""
    UPDATE workspaces w
       SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL, next_action_at = NULL,
           resume_build_id = NULL,
           latest_build = n.number, latest_transition = 'delete', latest_status = 'pending', latest_ended_at = NULL
      FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS n (id, number) WHERE w.id = n.id
""")

FIND_PENDING_CREATIONS = text(f"""
    SELECT id FROM workspaces
     WHERE preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL
       AND latest_build = 1 AND latest_transition = 'start' AND latest_status = 'pending'
""")
# The workspace and its build end together: no infrastructure exists, and both or neither must count.
CANCEL_CREATIONS = text(f"""
    WITH pending AS (
        SELECT w.id, b.id AS build_id
          FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = 1
         WHERE w.id = ANY(CAST(:ids AS uuid[])) AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
           AND w.latest_build = 1 AND b.transition = 'start' AND b.status = 'pending'
         ORDER BY w.id FOR UPDATE
    ), ended AS (
        UPDATE workspace_builds b SET status = 'canceled', completed_at = now(), error = :cause, next_dispatch_at = NULL
          FROM pending WHERE b.id = pending.build_id
    )
    UPDATE workspaces w
       SET deleted_at = now(), latest_status = 'canceled', latest_ended_at = now(), next_action_at = NULL
      FROM pending WHERE w.id = pending.id RETURNING w.id
""")


@dataclass(frozen=True, slots=True)
class Written:
    """The changes that a transaction has made."""

    workspace_ids: list[UUID]
    build_ids: list[UUID]
    lost: int = 0
    """The number of planned ids for which the plan no longer held."""


@dataclass(frozen=True, slots=True)
class FencedPreset:
    """A preset whose row is locked for one pass, with its current snapshot."""

    connection: AsyncConnection
    pass_number: int
    snapshot: PresetSnapshot
    template_id: UUID
    organization_id: UUID
    locked: frozenset[UUID]
    """The presets whose rows are locked: the preset itself and the other generations of its pool."""

    async def record_event(self, kind: str, data: dict[str, Any], preset_id: UUID | None = None) -> None:
        """Record an event about the changes, with the figures that led to them.

        Args:
            preset_id: The preset of the changed generation; None for the preset itself.
        """
        generations = generations_of(self.snapshot)
        figures = asdict(state_of(self.snapshot) if generations is None else generations.state)
        shown = {name: figures[name] for name in ("desired", "window", "actual", "expired", "starting")}
        await record_event(
            self.connection,
            kind,
            PREBUILDS_USER,
            preset_id=preset_id or self.snapshot.preset.id,
            data={"pass": self.pass_number, **shown, **data},
        )


@asynccontextmanager
async def enter_fence(
    engine: AsyncEngine, preset_id: UUID, pass_number: int, rules: Rules, *, lock_capacity: bool = False
) -> AsyncIterator[FencedPreset]:
    """Begin a transaction that locks a preset and the other generations of its pool for the writes of a pass.

    Args:
        lock_capacity: Also lock the count of pending builds.
    Raises:
        SupersededPass: A later pass of the preset has written already, or a version became active at this moment.
    """
    async with engine.begin() as connection:
        if lock_capacity:
            await connection.execute(LOCK_CAPACITY, {"key": CAPACITY_LOCK})
        pool = (await connection.execute(FIND_GENERATIONS, {"preset_id": preset_id})).all()
        ids = {preset_id, *(row.id for row in pool)}
        own = {preset_id, *(row.id for row in pool if row.rolls)}
        if len(ids) == 1:
            passed = await connection.scalar(FENCE, {"preset_id": preset_id, "pass": pass_number}) is not None
        else:
            found = (await connection.execute(LOCK_GENERATIONS, {"ids": list(ids)})).all()
            if passed := all(row.last_pass <= pass_number for row in found if row.id in own):
                await connection.execute(PASS_GENERATIONS, {"ids": list(own), "pass": pass_number})
        if not passed:
            raise SupersededPass(f"a pass after {pass_number} has reconciled preset {preset_id}")
        template = (await connection.execute(LOCK_TEMPLATE, {"preset_id": preset_id})).one()
        if template.limits_members:
            await lock_members(connection, template.organization_id)
        snapshot = await read_preset(connection, preset_id, rules)
        # Refused if other generations are planned or counted with it since before the rows were locked.
        together = own if generations_of(snapshot) is not None else ids
        if not {one.preset.id for one in snapshot.others} <= together:
            raise SupersededPass(f"a version has become active beside pass {pass_number} of preset {preset_id}")
        yield FencedPreset(
            connection, pass_number, snapshot, template.template_id, template.organization_id, frozenset(ids)
        )


async def create_prebuilds(
    engine: AsyncEngine,
    preset_id: UUID,
    pass_number: int,
    ids: Sequence[UUID],
    rules: Rules,
    *,
    pending_max: int | None = None,
    create_for: UUID | None = None,
) -> Written:
    """Record the workspaces *ids* and their first builds, as many as the pool still lacks and none while it is held.

    Workspaces that exist already are left alone, so a repetition makes no second one.

    Args:
        pending_max: Maximum number of pending creations of the preset, as in the plan; None for no limit.
        create_for: The plan's `create_for`.
    Raises:
        SupersededPass: A later pass of the preset has written already.
    """
    limit, made_for = rules.max_pending_builds, create_for or preset_id
    async with enter_fence(engine, preset_id, pass_number, rules, lock_capacity=limit is not None) as fenced:
        made = set(await fenced.connection.scalars(EXISTING, {"ids": list(ids)}))
        plan = plan_preset(fenced.snapshot, pass_number, pending_max, as_it_stands=True)
        allowed = len(plan.create) if plan.create_for == create_for else 0
        if fenced.snapshot.share is not None:  # the plan relied on its deletions for room, but these may have failed
            allowed = min(allowed, fenced.snapshot.share.room)
        if limit is not None:
            allowed = min(allowed, limit - int(str(await fenced.connection.scalar(COUNT_PENDING))))
        new = [i for i in ids if i not in made][: max(allowed, 0)]
        if new:
            values = {
                "ids": new,
                "names": [prebuild_name(i) for i in new],
                "build_ids": [build_id_of(i, 1) for i in new],
                "numbers": [1] * len(new),
                "organization_id": fenced.organization_id,
                "template_id": fenced.template_id,
                "preset_id": made_for,
            }
            await keep_trace(fenced.connection)
            await fenced.connection.execute(CREATE_WORKSPACES, values)
            await fenced.connection.execute(RECORD_CREATIONS, values)
            await fenced.record_event("prebuilds_created", {"workspaces": new}, made_for)
    done = [i for i in ids if i in made or i in new]
    return Written(done, [build_id_of(i, 1) for i in done], lost=len(ids) - len(done))


async def delete_prebuilds(
    engine: AsyncEngine, preset_id: UUID, pass_number: int, ids: Sequence[UUID], rules: Rules
) -> Written:
    """Record a deletion for each of *ids* that is still unclaimed and due for deletion.

    Raises:
        SupersededPass: A later pass of the preset has written already.
    """
    async with enter_fence(engine, preset_id, pass_number, rules) as fenced:
        if fenced.snapshot.paused:
            return Written([], [], lost=len(ids))
        due = deletions(fenced.snapshot)
        still_due = [i for i in ids if i in due]
        if fenced.snapshot.others or fenced.snapshot.preset.max_concurrent is not None:
            still_due = still_due[: len(plan_preset(fenced.snapshot, pass_number).delete)]
        wanted = {"ids": still_due, "presets": list(fenced.locked)}
        rows = (await fenced.connection.execute(LOCK_DELETABLE, wanted)).all()
        deleted = [row.id for row in rows]
        numbers = [row.latest_build + 1 for row in rows]
        builds = [build_id_of(i, number) for i, number in zip(deleted, numbers, strict=True)]
        if rows:
            values = {"ids": deleted, "numbers": numbers, "build_ids": builds}
            await keep_trace(fenced.connection)
            await fenced.connection.execute(BEGIN_DELETIONS, values)
            await fenced.connection.execute(RECORD_DELETIONS, values)
            for generation in sorted({row.preset_id for row in rows}):
                by_reason: dict[str, list[UUID]] = {}
                for row in rows:
                    if row.preset_id == generation:
                        by_reason.setdefault(due[row.id], []).append(row.id)
                await fenced.record_event("prebuilds_deleted", {"reasons": by_reason}, generation)
    return Written(deleted, builds, lost=len(ids) - len(deleted))


async def cancel_creations(
    engine: AsyncEngine, preset_id: UUID, pass_number: int, ids: Sequence[UUID], rules: Rules
) -> Written:
    """End each of *ids* whose creation has not begun, if the preset is inactive. Workspace and build end together. In a
    pool with several generations, only those end that a new plan cancels, too.

    Raises:
        SupersededPass: A later pass of the preset has written already.
    """
    async with enter_fence(engine, preset_id, pass_number, rules) as fenced:
        generations = generations_of(fenced.snapshot)
        if fenced.snapshot.paused or (generations is None and fenced.snapshot.preset.active):
            return Written([], [], lost=len(ids))
        wanted = list(ids)
        if generations is not None:
            planned = set(plan_preset(fenced.snapshot, pass_number).cancel)
            wanted = [i for i in ids if i in planned]
        canceled = await cancel_pending_creations(fenced.connection, wanted, cause="its preset is no longer active")
        if canceled:
            await fenced.record_event("creations_canceled", {"workspaces": canceled, "cause": "inactive"})
    return Written(canceled, [build_id_of(i, 1) for i in canceled], lost=len(ids) - len(canceled))


async def cancel_pending_creations(connection: AsyncConnection, ids: Sequence[UUID], *, cause: str) -> list[UUID]:
    """End those of *ids* that are prebuilds whose creation has not begun, and return their ids, sorted.

    Args:
        cause: The error that their builds get.
    """
    rows = await connection.scalars(CANCEL_CREATIONS, {"ids": list(ids), "cause": cause})
    return sorted(rows)


async def cancel_creations_of_invalid(connection: AsyncConnection, preset_id: UUID, build_id: UUID) -> list[UUID]:
    """Cancel a preset's pending creations after a build has shown that their input can never work.

    Returns:
        The builds that were canceled.
    """
    pending = list(await connection.scalars(FIND_PENDING_CREATIONS, {"preset_id": preset_id}))
    canceled = await cancel_pending_creations(connection, pending, cause=f"build {build_id} says it can never work")
    if canceled:
        await record_event(
            connection,
            "creations_canceled",
            PREBUILDS_USER,
            preset_id=preset_id,
            build_id=build_id,
            data={"workspaces": canceled, "cause": "validation_failed"},
        )
    return [build_id_of(i, 1) for i in canceled]
