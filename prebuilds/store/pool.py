"""Carrying out a plan: create, delete and cancel prebuilds, each in one transaction behind the fence.

The fence is the preset's row: it takes a pass's writes only when no later pass was there, so a frozen activity that
wakes up late can change nothing. Behind it, every write repeats the condition it was planned on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import SupersededPass
from prebuilds.payloads import PREBUILDS_USER, PREBUILDS_USER_ID, build_id_of
from prebuilds.planning.plan import prebuild_name
from prebuilds.store.events import record_event

FENCE = text("""
    UPDATE presets SET last_pass = :pass WHERE id = :preset_id AND last_pass <= :pass RETURNING template_version_id
""")

PRESET_NOW = text("""
    SELECT t.id AS template_id, t.organization_id, s.paused,
           t.active_version_id = :version_id AND t.deleted_at IS NULL AND NOT t.deprecated
             AND o.prebuilds_enabled AND p.desired_instances IS NOT NULL AS active
      FROM presets p JOIN templates t ON t.id = p.template_id
      JOIN organizations o ON o.id = t.organization_id CROSS JOIN settings s
     WHERE p.id = :preset_id FOR SHARE OF t
""")

CREATE_WORKSPACE = text(f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status)
    VALUES (:id, :organization_id, '{PREBUILDS_USER_ID}', :name, :template_id, :version_id, :preset_id,
            1, 'start', 'pending')
    ON CONFLICT (id) DO NOTHING RETURNING id
""")

CREATE_BUILD = text(f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    VALUES (:build_id, :id, 1, 'start', 'create', '{PREBUILDS_USER_ID}', :preset_id, :version_id,
            now() + interval '1 second')
""")

# Claimed meanwhile: another owner, no row. A claim in the air holds the row; this waits for it, and then sees that.
LOCK_DELETABLE = text(f"""
    SELECT id, latest_build FROM workspaces
     WHERE id = ANY(CAST(:ids AS uuid[])) AND preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}'
       AND deleted_at IS NULL AND latest_transition = 'start' AND latest_status = 'succeeded'
     ORDER BY id FOR NO KEY UPDATE
""")

BEGIN_DELETION = text("""
    UPDATE workspaces
       SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,
           latest_build = :number, latest_transition = 'delete', latest_status = 'pending'
     WHERE id = :id
""")

DELETE_BUILD = text(f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    VALUES (:build_id, :id, :number, 'delete', 'none', '{PREBUILDS_USER_ID}', :preset_id, :version_id,
            now() + interval '1 second')
""")

# Workspace and build end together: no infrastructure exists, and neither may be counted without the other.
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
    UPDATE workspaces w SET deleted_at = now(), latest_status = 'canceled', next_action_at = NULL
      FROM pending WHERE w.id = pending.id RETURNING w.id
""")


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction really changed."""

    workspace_ids: list[UUID]
    build_ids: list[UUID]
    lost: int = 0
    """How many of the planned ids had moved on since the snapshot."""


NOTHING = Written([], [])


@asynccontextmanager
async def _fenced(
    engine: AsyncEngine, preset_id: UUID, pass_number: int
) -> AsyncIterator[tuple[AsyncConnection, UUID, Row[tuple[object, ...]]]]:
    """A transaction that holds the preset's row for this pass, with what is true now.

    Raises:
        SupersededPass: A later pass was here.
    """
    async with engine.begin() as connection:
        version_id = await connection.scalar(FENCE, {"preset_id": preset_id, "pass": pass_number})
        if version_id is None:
            raise SupersededPass(f"a pass after {pass_number} has reconciled preset {preset_id}")
        now = (await connection.execute(PRESET_NOW, {"preset_id": preset_id, "version_id": version_id})).one()
        yield connection, version_id, now


async def create_prebuilds(engine: AsyncEngine, preset_id: UUID, pass_number: int, ids: Sequence[UUID]) -> Written:
    """Record the workspaces *ids* and their first builds. Those that exist are left alone, so twice makes one.

    Nothing is written when the preset is paused or no longer active.

    Raises:
        SupersededPass: A later pass was here.
    """
    async with _fenced(engine, preset_id, pass_number) as (connection, version_id, now):
        if now.paused or not now.active:
            return Written([], [], lost=len(ids))
        created: list[UUID] = []
        for workspace_id in ids:
            row = {
                "id": workspace_id,
                "build_id": build_id_of(workspace_id, 1),
                "name": prebuild_name(workspace_id),
                "organization_id": now.organization_id,
                "template_id": now.template_id,
                "version_id": version_id,
                "preset_id": preset_id,
            }
            if await connection.scalar(CREATE_WORKSPACE, row) is not None:
                await connection.execute(CREATE_BUILD, row)
                created.append(workspace_id)
        if created:
            await record_event(
                connection,
                "prebuilds_created",
                PREBUILDS_USER,
                preset_id=preset_id,
                data={"pass": pass_number, "workspaces": created},
            )
    return Written(created, [build_id_of(i, 1) for i in created], lost=0)


async def delete_prebuilds(engine: AsyncEngine, preset_id: UUID, pass_number: int, ids: Sequence[UUID]) -> Written:
    """Record a delete build for each of *ids* that is still an unclaimed, running prebuild of this preset.

    Raises:
        SupersededPass: A later pass was here.
    """
    async with _fenced(engine, preset_id, pass_number) as (connection, version_id, now):
        if now.paused:
            return Written([], [], lost=len(ids))
        rows = (await connection.execute(LOCK_DELETABLE, {"ids": list(ids), "preset_id": preset_id})).all()
        builds: list[UUID] = []
        for row in rows:
            number = row.latest_build + 1
            build = {
                "id": row.id,
                "number": number,
                "build_id": build_id_of(row.id, number),
                "preset_id": preset_id,
                "version_id": version_id,
            }
            await connection.execute(BEGIN_DELETION, build)
            await connection.execute(DELETE_BUILD, build)
            builds.append(build["build_id"])
        if rows:
            await record_event(
                connection,
                "prebuilds_deleted",
                PREBUILDS_USER,
                preset_id=preset_id,
                data={"pass": pass_number, "workspaces": [row.id for row in rows]},
            )
    return Written([row.id for row in rows], builds, lost=len(ids) - len(rows))


async def cancel_creations(engine: AsyncEngine, preset_id: UUID, pass_number: int, ids: Sequence[UUID]) -> Written:
    """End each of *ids* whose creation was not begun, row and build in one transaction.

    Raises:
        SupersededPass: A later pass was here.
    """
    async with _fenced(engine, preset_id, pass_number) as (connection, _, now):
        if now.paused or now.active:
            return Written([], [], lost=len(ids))
        canceled = await cancel_pending_creations(connection, ids, cause="its preset is no longer active")
        if canceled:
            await record_event(
                connection,
                "creations_canceled",
                PREBUILDS_USER,
                preset_id=preset_id,
                data={"pass": pass_number, "workspaces": canceled},
            )
    return Written(canceled, [], lost=len(ids) - len(canceled))


async def cancel_pending_creations(connection: AsyncConnection, ids: Sequence[UUID], *, cause: str) -> list[UUID]:
    """End those of the workspaces *ids* that are prebuilds whose creation was not begun; returns which those were."""
    rows = await connection.scalars(CANCEL_CREATIONS, {"ids": list(ids), "cause": cause})
    return sorted(rows)
