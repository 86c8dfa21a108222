"""Abandoning a workspace: its row ends and its name is free, although what it has could not be destroyed."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.store.build_end import FORGET_EARLIER_STATES
from prebuilds.store.build_record import SUPERSEDE
from prebuilds.store.claim_secrets import forget_claim_secrets
from prebuilds.store.events import record_event
from prebuilds.store.workspaces import lock_workspace
from prebuilds.views import AbandonResult

READ = text("""
    SELECT w.name, u.name AS owner, w.host, w.resources, w.preset_id, d.id AS failed_id, d.error,
           (SELECT b.id FROM workspace_builds b WHERE b.workspace_id = w.id AND b.status IN ('running', 'canceling'))
               AS running_id
      FROM workspaces w JOIN users u ON u.id = w.owner_id
      LEFT JOIN LATERAL (SELECT b.id, b.error FROM workspace_builds b
                          WHERE b.workspace_id = w.id AND b.transition = 'delete' AND b.status = 'failed'
                          ORDER BY b.number DESC LIMIT 1) d ON true
     WHERE w.id = :id
""")
# `resources` stays, unlike at a deletion: it names what may be left.
ABANDON = text("""
    UPDATE workspaces
       SET deleted_at = now(), abandoned_at = now(), address = NULL, claimable_preset_id = NULL, claim_build_id = NULL,
           resume_build_id = NULL,
           expires_at = NULL, next_action_at = NULL, latest_ended_at = coalesce(latest_ended_at, now()),
           latest_status = CASE latest_status WHEN 'pending' THEN 'canceled' ELSE latest_status END
     WHERE id = :id
""")


async def abandon_workspace(engine: AsyncEngine, reference: str, by: str) -> AbandonResult:
    """End a workspace whose deletion has failed, without destroying anything. It cannot be undone.

    A repetition of the deletion that waits is canceled. One that runs is not: its driver is at work.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
    Raises:
        InvalidInput: No deletion of the workspace has failed yet, or a build of it is running.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    async with engine.begin() as connection:
        workspace_id = await lock_workspace(connection, reference)
        row = (await connection.execute(READ, {"id": workspace_id})).one()
        path = f"{row.owner}/{row.name}"
        if row.failed_id is None:
            raise InvalidInput.field(
                "workspace",
                f"no deletion of {path} has failed, so what it has may still be destroyed",
                f"run `prebuilds release {path} --wait` first, and abandon it when that fails",
            )
        if row.running_id is not None:
            raise InvalidInput.field(
                "workspace",
                f"a build of {path} is running, which may still destroy what it has",
                f"wait until it has ended; `prebuilds logs {row.running_id} -f` shows it",
            )
        values = {"workspace_id": workspace_id, "cause": "the workspace was abandoned"}
        canceled = list(await connection.scalars(SUPERSEDE, values))
        await connection.execute(ABANDON, {"id": workspace_id})
        # The latest state stays: it names what may be left more exactly than `resources`.
        await connection.execute(FORGET_EARLIER_STATES, {"workspace_id": workspace_id})
        await forget_claim_secrets(connection, workspace_id)
        left = {"workspace": path, "host": row.host, "error": row.error, "left": row.resources}
        await record_event(connection, "abandoned", by, workspace_id=workspace_id, build_id=row.failed_id, data=left)
    return AbandonResult(
        workspace_id=workspace_id,
        workspace=path,
        build_id=row.failed_id,
        error=row.error,
        host=row.host,
        left=row.resources,
        preset_id=row.preset_id,
        canceled_build_ids=[UUID(str(one)) for one in canceled],
    )
