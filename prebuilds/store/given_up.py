"""Claims that nobody can come back for: they wait no longer, and what they have won is released."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.workspaces import record_release

# This statement waits for a concurrent hand-over, and the next statement then sees its result.
LEAVE_QUEUE = text("""
    WITH gone AS (
        DELETE FROM claim_queue WHERE claim_id = ANY(:ids) RETURNING claim_id, request, decided_at
    )
    INSERT INTO events (kind, actor, claim_id, data)
    SELECT 'claim_left', :by, claim_id,
           jsonb_build_object('owner', request ->> 'owner', 'name', request ->> 'name')
      FROM gone WHERE decided_at IS NULL
""")
# Lock the workspaces in a statement of its own: only the next statement sees a transfer that this one has waited for.
LOCK_WORKSPACES = text("""
    SELECT id FROM workspaces WHERE id IN (SELECT workspace_id FROM claims WHERE id = ANY(:ids)) AND deleted_at IS NULL
     ORDER BY id FOR NO KEY UPDATE
""")
WON = text("""
    SELECT w.id FROM claims c JOIN workspaces w ON w.id = c.workspace_id
     WHERE c.id = ANY(:ids) AND w.id = ANY(:locked) AND c.transferred_at IS NULL AND w.deleted_at IS NULL ORDER BY c.id
""")


async def give_up_claims(engine: AsyncEngine, claim_ids: Sequence[str], by: str) -> list[tuple[UUID, RecordedBuild]]:
    """Take claims out of the queue, and record the deletion of what they have won; all in one transaction, so that
    nobody else can have been given such a workspace in between.

    Returns:
        The workspaces that they have won and that are still there, whatever their workflows have told, each with its
        deletion; not those that were handed to another owner since.
    """
    ids = {"ids": list(claim_ids)}
    async with engine.begin() as connection:
        await connection.execute(LEAVE_QUEUE, ids | {"by": by})
        locked = list(await connection.scalars(LOCK_WORKSPACES, ids))
        workspace_ids = list(await connection.scalars(WON, ids | {"locked": locked}))
        return [(workspace_id, await record_release(connection, workspace_id, by)) for workspace_id in workspace_ids]
