"""The limits of organizations: locks for the counts that they bound, and how much of each limit is used."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.views import LimitRow
from prebuilds.vocabulary import PREBUILDS_USER_ID

MEMBERS_LOCK = 0x70726D6D
"""The first of two keys ("prmm"); the second is the organization's. An organization's row would be the wrong lock:
`apply` holds it when it waits for presets, which passes lock first."""
LOCK_MEMBERS = text("SELECT pg_advisory_xact_lock(:key, uuid_hash(CAST(:organization_id AS uuid)))")


async def lock_members(connection: AsyncConnection, organization_id: UUID) -> None:
    """Let nobody else add members to an organization's pools until the transaction ends. Presets are locked before."""
    await connection.execute(LOCK_MEMBERS, {"key": MEMBERS_LOCK, "organization_id": organization_id})


# Each count is made by preset, so that the index of live workspaces serves it.
LIST_LIMITS = text(f"""
    WITH live AS (
        SELECT o.id AS organization_id, w.owner_id, w.latest_transition, w.latest_status, w.quarantined_at
          FROM organizations o JOIN templates t ON t.organization_id = o.id
          JOIN template_versions v ON v.template_id = t.id JOIN presets p ON p.template_version_id = v.id
          JOIN workspaces w ON w.preset_id = p.id AND w.deleted_at IS NULL
         WHERE o.limits IS NOT NULL AND w.latest_transition IS DISTINCT FROM 'delete'
    ), owned AS (
        SELECT organization_id, owner_id, count(*) AS workspaces FROM live
         WHERE owner_id NOT IN (SELECT id FROM users WHERE key IN ('prebuilds', 'prebuilds-drill'))
         GROUP BY organization_id, owner_id
    )
    SELECT o.name AS organization, l.key AS "limit", CAST(l.value AS integer) AS maximum,
           coalesce(CASE l.key
               WHEN 'workspaces' THEN (SELECT sum(workspaces) FROM owned WHERE organization_id = o.id)
               WHEN 'workspaces_per_member' THEN (SELECT max(workspaces) FROM owned WHERE organization_id = o.id)
               WHEN 'claims_per_minute' THEN (SELECT count(*) FROM recent_claims r
                                               WHERE r.organization_id = o.id
                                                 AND r.asked_at > now() - interval '1 minute')
               WHEN 'pool_members' THEN (SELECT count(*) FROM live
                                          WHERE organization_id = o.id AND owner_id = '{PREBUILDS_USER_ID}'
                                            AND quarantined_at IS NULL AND latest_transition IN ('start', 'pause')
                                            AND latest_status IN ('pending', 'running', 'canceling', 'succeeded'))
           END, 0) AS used
      FROM organizations o, jsonb_each_text(o.limits) AS l (key, value)
     ORDER BY 1, 2
""")


async def list_limits(connection: AsyncConnection) -> list[LimitRow]:
    """Return the limits of all organizations with what is used of each, by organization and name."""
    return [LimitRow(**row._mapping) for row in await connection.execute(LIST_LIMITS)]
