"""Near misses: claims that missed a preset by one parameter. They are recorded as events and shown to operators."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.failures.database import ANY_FAULT
from prebuilds.payloads import ClaimRequest
from prebuilds.planning.choose import NearMiss
from prebuilds.views.pools import NearMissRow

logger = logging.getLogger(__name__)

DAYS = 14
SHOWN_MIN = 10
"""Near misses below this number may be one person's mistake, and are not shown."""
READ_MAX = 5000
"""Maximum number of near misses that are read, the newest ones."""

# All attempts at a claim are one miss. A claim or batch that has won is no miss when it is repeated, even if its preset
# has other values by then.
RECORD = """
    INSERT INTO events (kind, actor, preset_id, claim_id, data)
    SELECT 'claim_near_miss', $1, $2, $3, jsonb_build_object('preset', $4::text, 'parameter', $5::text)
     WHERE NOT EXISTS (SELECT FROM events WHERE claim_id = $3 AND workspace_id IS NULL AND kind = 'claim_near_miss')
       AND NOT EXISTS (SELECT FROM claims WHERE id IN ($3, $3 || '/0') AND workspace_id IS NOT NULL)
"""
# Counted by the preset's name, so that a new version continues the counts of the one before. Claims of the preset are
# its near misses and its demand together.
READ = text(f"""
    WITH newest AS (
        SELECT preset_id, data ->> 'parameter' AS parameter, at FROM events
         WHERE kind = 'claim_near_miss' ORDER BY id DESC LIMIT {READ_MAX}
    ), missed AS (
        SELECT p.template_id, p.name, n.parameter, count(*) AS missed
          FROM newest n JOIN presets p ON p.id = n.preset_id
         WHERE n.at > now() - interval '{DAYS} days'
         GROUP BY 1, 2, 3 HAVING count(*) >= {SHOWN_MIN}
    )
    SELECT o.name || '/' || t.name || '/' || m.name AS preset, m.parameter, m.missed,
           m.missed + (SELECT coalesce(sum((SELECT sum(n) FROM unnest(d.claims) AS n)), 0)
                         FROM preset_demand d
                        WHERE d.template_id = m.template_id AND d.preset_name = m.name
                          AND d.minute > now() - interval '{DAYS} days') AS claims
      FROM missed m JOIN templates t ON t.id = m.template_id AND t.deleted_at IS NULL
      JOIN organizations o ON o.id = t.organization_id
      JOIN presets p ON p.template_version_id = t.active_version_id AND p.name = m.name
     WHERE CAST(:preset AS text) IS NULL OR o.name || '/' || t.name || '/' || m.name = :preset
     ORDER BY m.missed DESC, preset, m.parameter
""")


async def record_near_miss(pool: asyncpg.Pool[Any], near: NearMiss, claim_id: str, request: ClaimRequest) -> None:
    """Record which preset a claim has missed by one parameter. If that fails, the claim goes on without the record."""
    try:
        await pool.execute(RECORD, request.initiator_or_owner, near.offer.id, claim_id, near.offer.name, near.parameter)
    except ANY_FAULT as error:
        logger.warning("A near miss could not be recorded", extra={"claim_id": claim_id, "error": repr(error)})


async def read_near_misses(connection: AsyncConnection, preset: str | None = None) -> list[NearMissRow]:
    """Read the near misses of the last `DAYS` days by preset and parameter, those with the most misses first.

    Args:
        preset: Only those of the preset with this path; None for all.
    """
    rows = await connection.execute(READ, {"preset": preset})
    return [
        NearMissRow(preset=row.preset, parameter=row.parameter, missed=row.missed, claims=int(row.claims))
        for row in rows
    ]
