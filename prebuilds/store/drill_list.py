"""Drills as people see them: the newest ones, one of them, and how each template stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads.not_found import no_drill
from prebuilds.planning.drills import DrillPolicy, is_stale
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.paging import cursor, read_cursor
from prebuilds.store.templates import find_templates_ever
from prebuilds.views import DrillRow, DrillState

_DRILLS = """
    SELECT d.id, o.name || '/' || t.name AS template, d.preset_name AS preset, v.number AS version, d.requested_by,
           d.due_at, coalesce(d.outcome, 'running') AS status, d.stage, d.reason, d.evidence, d.usable_seconds,
           d.workspace_id, d.build_id, d.claimed_at, d.created_at, d.ended_at
      FROM drills d JOIN templates t ON t.id = d.template_id JOIN organizations o ON o.id = t.organization_id
      LEFT JOIN template_versions v ON v.id = d.template_version_id
"""
READ = text(f"{_DRILLS} WHERE d.id = :id")
LIST = text(f"""
    {_DRILLS}
     WHERE (CAST(:templates AS uuid[]) IS NULL OR d.template_id = ANY(CAST(:templates AS uuid[])))
       AND (CAST(:organizations AS text[]) IS NULL OR o.name = ANY(CAST(:organizations AS text[])))
       AND (CAST(:before AS timestamptz) IS NULL OR (d.created_at, d.id) < (:before, CAST(:before_id AS uuid)))
     ORDER BY d.created_at DESC, d.id DESC LIMIT :limit
""")
# A template has a state when it is drilled by a schedule, or has a drill that was not skipped.
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


def drill_cursor(row: DrillRow) -> str:
    """Return the cursor of the drills that follow *row*."""
    return cursor(row.created_at.isoformat(), row.id)


async def list_drills(
    engine: AsyncEngine, template: str | None, *, limit: int, after: str | None = None, reach: Reach = EVERYWHERE
) -> list[DrillRow]:
    """List drills, newest first.

    Args:
        template: An id, or a path that means every template of that name; None for all.
        after: A cursor from `drill_cursor`; None to begin with the newest.
        reach: List only those within it.
    Raises:
        TemplateNotFound: There never was such a template.
        InvalidInput: *after* is no such cursor, or *template* is neither an id nor a path.
    """
    before, before_id = (None, None) if after is None else read_cursor(after, datetime, UUID)
    async with engine.connect() as connection:
        found = None if template is None else [t.id for t in await find_templates_ever(connection, template, reach)]
        values = {
            "templates": found,
            "organizations": None if reach.all is None else sorted(reach.all),
            "before": before,
            "before_id": before_id,
            "limit": limit,
        }
        return [_row(row) for row in await connection.execute(LIST, values)]


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
    """Read how the drills of each template stand that has any, by path."""
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
