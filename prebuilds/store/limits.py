"""The limits of organizations: what locks the counts that they bound, and how much of each is used."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

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
    SELECT o.name AS organization, l.key AS "limit", CAST(l.value AS integer) AS maximum, coalesce(u.used, 0) AS used
      FROM organizations o, jsonb_each_text(o.limits) AS l (key, value),
           LATERAL (SELECT count(*) AS used
                      FROM templates t JOIN presets p ON p.template_id = t.id JOIN workspaces w ON w.preset_id = p.id
                     WHERE l.key = 'pool_members' AND t.organization_id = o.id AND w.deleted_at IS NULL
                       AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.quarantined_at IS NULL
                       AND w.latest_transition = 'start'
                       AND w.latest_status IN ('pending', 'running', 'canceling', 'succeeded')) AS u
     WHERE o.limits IS NOT NULL
     ORDER BY 1, 2
""")


async def list_limits(engine: AsyncEngine) -> list[LimitRow]:
    """Return the limits of all organizations with what is used of each, by organization and name."""
    async with engine.connect() as connection:
        return [LimitRow(**row._mapping) for row in await connection.execute(LIST_LIMITS)]
