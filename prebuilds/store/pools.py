"""Pools as the page shows them. Each statement uses an index, and reads an hour, a pool, or a bounded number of rows.

Nothing here may slow a claim: the page reads while claims run, and again every few seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.store.workspaces import status_in_words
from prebuilds.views.pools import SLOTS, HourFigures, HourSlot, PoolFailure, PoolMember
from prebuilds.vocabulary import DRILL_USER, PREBUILDS_USER_ID

SAMPLES_MAX = 5000
"""The newest claims, and creations, of a preset from which an hour's figures are made. It bounds a busy pool's cost."""
AT_ONCE = "1 second"
"""A claim that has got its prebuild within this time after its first request is a hit."""
MEMBERS_MAX = 200
FAILURES_MAX = 10
LINES_SHOWN = 8

WAITING_SINCE = text("""
    SELECT o.name || '/' || t.name || '/' || q.preset_name AS path, min(q.queued_at) AS since
      FROM claim_queue q JOIN templates t ON t.id = q.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE q.decided_at IS NULL GROUP BY 1
""")
# Events have no index on their time, which every claim would have to write. Their ids grow with it, so a search in the
# primary key finds the first event since a time. The limit of its steps is more than any number of events needs.
FIRST_EVENT = text("""
    WITH RECURSIVE search (step, low, high) AS (
        SELECT 0, (SELECT id FROM events ORDER BY id LIMIT 1), (SELECT id FROM events ORDER BY id DESC LIMIT 1)
         UNION ALL
        SELECT s.step + 1, CASE WHEN middle.at < :since THEN middle.id + 1 ELSE s.low END,
               CASE WHEN middle.at < :since THEN s.high ELSE (s.low + s.high) / 2 END
          FROM search s, LATERAL (SELECT id, at FROM events WHERE id >= (s.low + s.high) / 2 ORDER BY id LIMIT 1)
                                 AS middle
         WHERE s.low < s.high AND s.step < 64
    )
    SELECT coalesce(low, 0) FROM search ORDER BY step DESC LIMIT 1
""")
# A claim has ended for its person when the build that hands the workspace over has.
CLAIMS = text(f"""
    WITH decided AS (
        SELECT p.id AS preset_id, least(floor(extract(epoch FROM e.at - :since) / 300)::int, {SLOTS - 1}) AS slot,
               e.kind = 'claim_prebuilt' AND c.completed_at - c.created_at < interval '{AT_ONCE}'
                   AND c.answer ->> 'source' IS DISTINCT FROM 'paused' AS hit,
               CASE WHEN e.kind <> 'claim_missed' THEN extract(epoch FROM b.completed_at - c.created_at) END AS seconds
          FROM unnest(CAST(:presets AS uuid[])) AS p (id),
               LATERAL (SELECT at, kind, claim_id FROM events
                         WHERE preset_id = p.id AND id >= :first AND at >= :since
                           AND kind IN ('claim_prebuilt', 'claim_created', 'claim_missed')
                           AND actor <> '{DRILL_USER}'
                         ORDER BY id DESC LIMIT {SAMPLES_MAX}) AS e
          LEFT JOIN claims c ON c.id = e.claim_id
          LEFT JOIN workspace_builds b ON b.id = CAST(c.answer ->> 'build_id' AS uuid) AND b.status = 'succeeded'
    )
    SELECT preset_id, slot, count(*) AS claims, count(*) FILTER (WHERE hit) AS hits,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY seconds) AS p95
      FROM decided GROUP BY GROUPING SETS ((preset_id), (preset_id, slot))
""")
BUILDS = text(f"""
    WITH ended AS (
        SELECT p.id AS preset_id, b.status = 'failed' AS failed,
               least(floor(extract(epoch FROM b.created_at - :since) / 300)::int, {SLOTS - 1}) AS slot,
               CASE WHEN b.status = 'succeeded' THEN extract(epoch FROM b.completed_at - b.created_at) END AS seconds
          FROM unnest(CAST(:presets AS uuid[])) AS p (id),
               LATERAL (SELECT created_at, completed_at, status, stage FROM workspace_builds
                         WHERE preset_id = p.id AND number = 1 AND status IN ('succeeded', 'failed')
                           AND created_at >= :since
                         ORDER BY created_at DESC LIMIT {SAMPLES_MAX}) AS b
         WHERE b.stage = 'create'
    )
    SELECT preset_id, slot, count(*) AS builds, count(*) FILTER (WHERE failed) AS failed,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY seconds) AS p95
      FROM ended GROUP BY GROUPING SETS ((preset_id), (preset_id, slot))
""")
MEMBERS = text(f"""
    SELECT w.id, w.name, v.number AS version, w.latest_transition, w.latest_status, w.claimable_preset_id,
           w.created_at, w.expires_at, w.host, w.kept, w.quarantined_at
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
     WHERE w.preset_id = ANY(CAST(:presets AS uuid[])) AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
     ORDER BY w.created_at, w.id LIMIT {MEMBERS_MAX + 1}
""")
FAILURES = text(f"""
    SELECT b.id AS build_id, b.workspace_id, u.name || '/' || w.name AS workspace, b.transition, b.stage, b.error,
           b.started_at, b.completed_at AS failed_at,
           ARRAY(SELECT line FROM build_logs l WHERE l.build_id = b.id
                  ORDER BY l.attempt DESC, l.number DESC LIMIT {LINES_SHOWN}) AS lines
      FROM (SELECT b.* FROM unnest(CAST(:presets AS uuid[])) AS p (id),
                   LATERAL (SELECT * FROM workspace_builds
                             WHERE preset_id = p.id AND status = 'failed'
                             ORDER BY completed_at DESC LIMIT {FAILURES_MAX}) AS b
             ORDER BY b.completed_at DESC LIMIT {FAILURES_MAX}) AS b
      JOIN workspaces w ON w.id = b.workspace_id JOIN users u ON u.id = w.owner_id
     ORDER BY b.completed_at DESC
""")
NOW = text("SELECT date_trunc('minute', now()) - interval '59 minutes'")


async def read_waiting_since(connection: AsyncConnection) -> dict[str, datetime]:
    """Since when the oldest claim waits, by the preset's path; only presets for which one does."""
    return {row.path: row.since for row in await connection.execute(WAITING_SINCE)}


async def read_hour(engine: AsyncEngine, preset_ids: Sequence[UUID]) -> dict[UUID, HourFigures]:
    """The last hour's figures of each preset. The hour ends with the current minute."""
    async with engine.connect() as connection:
        since = await connection.scalar(NOW)
        first = await connection.scalar(FIRST_EVENT, {"since": since})
        values = {"presets": list(preset_ids), "since": since}
        claims = (await connection.execute(CLAIMS, values | {"first": first})).all()
        builds = (await connection.execute(BUILDS, values)).all()
    found: dict[UUID, dict[str, object]] = {id: {"preset_id": id} for id in preset_ids}
    slots: dict[UUID, list[dict[str, object]]] = {id: [{} for _ in range(SLOTS)] for id in preset_ids}
    for row in claims:
        if row.slot is None:
            found[row.preset_id] |= {
                "claims": row.claims,
                "hits": row.hits,
                "claim_p50_seconds": _float(row.p50),
                "claim_p95_seconds": _float(row.p95),
            }
        else:
            slots[row.preset_id][max(row.slot, 0)] |= {
                "claims": row.claims,
                "hits": row.hits,
                "claim_p95_seconds": _float(row.p95),
            }
    for row in builds:
        if row.slot is None:
            found[row.preset_id] |= {
                "builds": row.builds,
                "builds_failed": row.failed,
                "build_p50_seconds": _float(row.p50),
                "build_p95_seconds": _float(row.p95),
            }
        else:
            slots[row.preset_id][max(row.slot, 0)] |= {"build_p95_seconds": _float(row.p95)}
    return {
        id: HourFigures.model_validate(facts | {"slots": [HourSlot.model_validate(slot) for slot in slots[id]]})
        for id, facts in found.items()
    }


async def read_members(connection: AsyncConnection, preset_ids: Sequence[UUID]) -> list[PoolMember]:
    """The unclaimed prebuilds of some presets, oldest first; one more than `MEMBERS_MAX` at most."""
    rows = await connection.execute(MEMBERS, {"presets": preset_ids})
    return [
        PoolMember(
            id=row.id,
            name=row.name,
            version=row.version,
            status=status_in_words(row),
            ready=row.claimable_preset_id is not None,
            created_at=row.created_at,
            expires_at=row.expires_at,
            host=row.host,
            kept=row.kept,
        )
        for row in rows
    ]


async def read_failures(connection: AsyncConnection, preset_ids: Sequence[UUID]) -> list[PoolFailure]:
    """The newest failed builds of some presets, newest first, with the ends of their logs."""
    rows = await connection.execute(FAILURES, {"presets": preset_ids})
    return [PoolFailure.model_validate(dict(row._mapping) | {"lines": row.lines[::-1]}) for row in rows]


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))
