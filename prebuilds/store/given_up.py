"""Claims that nobody can come back for: they wait no longer, and what they have won is found."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# It waits for a hand-over that is in the air, which the next statement then sees.
LEAVE_QUEUE = text("""
    WITH gone AS (
        DELETE FROM claim_queue WHERE claim_id = ANY(:ids) RETURNING claim_id, request, decided_at
    )
    INSERT INTO events (kind, actor, claim_id, data)
    SELECT 'claim_left', :by, claim_id,
           jsonb_build_object('owner', request ->> 'owner', 'name', request ->> 'name')
      FROM gone WHERE decided_at IS NULL
""")
WON = text("""
    SELECT w.id FROM claims c JOIN workspaces w ON w.id = c.workspace_id
     WHERE c.id = ANY(:ids) AND c.transferred_at IS NULL AND w.deleted_at IS NULL ORDER BY c.id
""")


async def give_up_claims(engine: AsyncEngine, claim_ids: Sequence[str], by: str) -> list[UUID]:
    """Take claims out of the queue.

    Returns:
        The workspaces that they have won and that are still there, whatever their workflows have told; not those that
        were handed to another owner since.
    """
    ids = {"ids": list(claim_ids)}
    async with engine.begin() as connection:
        await connection.execute(LEAVE_QUEUE, ids | {"by": by})
        return list(await connection.scalars(WON, ids))
