"""What `status` shows of the pools: the global snapshot's figures, and what went wrong last."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.plan import HELD_PAUSED, pool_state
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.views import LastError, PresetRow

# By preset and unfinished, so that the builds' own partial indexes answer, however many have ended.
PENDING_BUILDS = text("SELECT preset_id, count(*) FROM workspace_builds WHERE status = 'pending' GROUP BY preset_id")
LAST_ERRORS = text("""
    SELECT p.id AS preset_id, e.id AS build_id, e.error, e.completed_at
      FROM unnest(CAST(:ids AS uuid[])) AS p (id),
           LATERAL (SELECT b.id, b.error, b.completed_at FROM workspace_builds b
                     WHERE b.preset_id = p.id AND b.status = 'failed' ORDER BY b.completed_at DESC LIMIT 1) AS e
""")


async def read_snapshot(engine: AsyncEngine, *, enabled: bool) -> GlobalSnapshot:
    async with snapshot_transaction(engine) as connection:
        return await snapshot_state(connection, enabled=enabled)


async def read_status(engine: AsyncEngine, *, enabled: bool) -> list[PresetRow]:
    """One row a preset, as at one instant."""
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_state(connection, enabled=enabled)
        pending: dict[UUID, int] = {row[0]: row[1] for row in await connection.execute(PENDING_BUILDS)}
        failing = [p.preset.id for p in snapshot.presets]
        errors = {
            row.preset_id: LastError(build_id=row.build_id, message=row.error or "", at=row.completed_at)
            for row in await connection.execute(LAST_ERRORS, {"ids": failing})
        }
    rows = []
    for item in snapshot.presets:
        preset, counts = item.preset, item.counts
        state = pool_state(preset, counts, snapshot.taken_at)
        rows.append(
            PresetRow(
                preset_id=preset.id,
                organization=preset.organization,
                template=preset.template,
                version=preset.version,
                preset=preset.name,
                active=state.active,
                desired=state.desired,
                actual=state.actual,
                eligible=state.eligible,
                expired=state.expired,
                extraneous=state.extraneous,
                starting=state.starting,
                stopping=state.stopping,
                deleting=state.deleting,
                held=HELD_PAUSED if snapshot.paused and preset.active else None,
                held_until=None,
                waiting=0,
                pending_builds=pending.get(preset.id, 0),
                failed=counts.failed,
                last_error=errors.get(preset.id),
            )
        )
    return rows
