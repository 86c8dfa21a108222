"""Drills as people see them: lists, a single drill, and the state of each template's drills."""

from __future__ import annotations

from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads.not_found import no_drill
from prebuilds.planning.drills import DrillPolicy, is_stale
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.store.template_lists import newest_first, read_newest
from prebuilds.views import DrillRow, DrillState, Page

_DRILLS = """
    SELECT d.id, o.name || '/' || t.name AS template, d.preset_name AS preset, v.number AS version, d.requested_by,
           d.due_at, coalesce(d.outcome, 'running') AS status, d.stage, d.reason, d.evidence, d.usable_seconds,
           d.workspace_id, d.build_id, d.claimed_at, d.created_at, d.ended_at
      FROM drills d JOIN templates t ON t.id = d.template_id JOIN organizations o ON o.id = t.organization_id
      LEFT JOIN template_versions v ON v.id = d.template_version_id
"""
READ = text(f"{_DRILLS} WHERE d.id = :id")
LIST = newest_first(_DRILLS, "d", "created_at")
# Templates with a schedule of drills, and those with a drill that was not skipped.
STATES = text("""
    SELECT o.name AS organization, t.name AS template, t.drill, s.next_at, s.since, now() AS now,
           good.ended_at AS succeeded_at, good.usable_seconds, last.outcome, last.stage, last.reason
      FROM templates t JOIN organizations o ON o.id = t.organization_id
      LEFT JOIN drill_schedules s ON s.template_id = t.id
      LEFT JOIN LATERAL (SELECT outcome, stage, reason FROM drills d
                          WHERE d.template_id = t.id AND d.outcome IN ('succeeded', 'failed')
                          ORDER BY d.created_at DESC, d.id DESC LIMIT 1) AS last ON true
      LEFT JOIN LATERAL (SELECT ended_at, usable_seconds FROM drills d
                          WHERE d.template_id = t.id AND d.outcome = 'succeeded'
                          ORDER BY d.created_at DESC, d.id DESC LIMIT 1) AS good ON true
     WHERE t.deleted_at IS NULL AND NOT t.deprecated AND (s.template_id IS NOT NULL OR last.outcome IS NOT NULL)
     ORDER BY o.name, t.name
""")
LAST_OF_PRESET = text(f"""
    {_DRILLS}
     WHERE d.template_id IN (SELECT template_id FROM presets WHERE id = :preset_id)
       AND d.preset_name IN (SELECT name FROM presets WHERE id = :preset_id)
     ORDER BY d.created_at DESC, d.id DESC LIMIT :limit
""")


async def list_drills(
    engine: AsyncEngine,
    template: str | None,
    *,
    reach: Reach = EVERYWHERE,
    limit: int = LIMIT_DEFAULT,
    after: str | None = None,
) -> Page[DrillRow]:
    """List a page of the drills, newest first. Arguments and errors: see `read_newest`."""
    begun = attrgetter("created_at")
    return await read_newest(engine, LIST, _row, begun, template, reach=reach, limit=limit, after=after)


async def read_drill(engine: AsyncEngine, drill_id: UUID) -> DrillRow:
    """Read one drill.

    Raises:
        DrillNotFound: There is no such drill.
    """
    async with engine.connect() as connection:
        row = (await connection.execute(READ, {"id": drill_id})).one_or_none()
    if row is None:
        raise no_drill(drill_id)
    return _row(row)


async def last_drills(connection: AsyncConnection, preset_id: UUID, limit: int) -> list[DrillRow]:
    """Read the newest drills of a preset, of all versions of its template, newest first."""
    rows = await connection.execute(LAST_OF_PRESET, {"preset_id": preset_id, "limit": limit})
    return [_row(row) for row in rows]


async def read_states(engine: AsyncEngine) -> list[DrillState]:
    """Read the state of each template's drills, ordered by path. Templates without drills are left out."""
    async with engine.connect() as connection:
        return [_state(row) for row in await connection.execute(STATES)]


def _row(row: Row[Any]) -> DrillRow:
    return DrillRow.model_validate(dict(row._mapping))


def _state(row: Row[Any]) -> DrillState:
    policy = DrillPolicy.of_json(row.drill)
    scheduled = policy.cron is not None and row.since is not None
    failed = row.outcome == "failed"
    return DrillState(
        organization=row.organization,
        template=row.template,
        next_at=row.next_at,
        succeeded_at=row.succeeded_at,
        usable_seconds=row.usable_seconds,
        failed=failed,
        stage=row.stage if failed else None,
        reason=row.reason if failed else None,
        stale=scheduled and is_stale(policy.cron or "", policy.timezone, row.since, row.succeeded_at, row.now),
    )
