"""Recording builds, as an outbox: a build is recorded in the transaction that asks for it, and started after the
commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.store.kept_traces import keep_trace
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Stage, Transition, build_id_of

REDISPATCH_STEP = timedelta(seconds=5)
REDISPATCH_MAX = timedelta(seconds=30)
"""How long an unfinished build waits for its next dispatch: a step at first, twice as long each time, at most this."""
DISPATCH_BATCH_MAX = 200
"""Builds that one sweep dispatches; the next sweep takes the others."""

LOCK_WORKSPACE = text("""
    SELECT w.latest_build, w.latest_transition, w.template_version_id, w.preset_id, w.owner_id,
           b.id AS build_id, b.status AS build_status
      FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
     WHERE w.id = :workspace_id AND w.deleted_at IS NULL FOR NO KEY UPDATE OF w
""")
SUPERSEDE = text("""
    UPDATE workspace_builds SET status = 'canceled', completed_at = now(), next_dispatch_at = NULL, error = :cause
     WHERE workspace_id = :workspace_id AND status = 'pending' RETURNING id
""")
# The build is due again after a second, as in `RECORD`. The relay then repeats a cancellation that the workflow has
# missed.
CANCEL_START = text("""
    UPDATE workspace_builds SET status = 'canceling', dispatches = 0, next_dispatch_at = now() + interval '1 second'
     WHERE workspace_id = :workspace_id AND status = 'running' AND transition = 'start' RETURNING id
""")
RECORD = text("""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    VALUES (:build_id, :workspace_id, :number, :transition, :stage, :initiator_id, :preset_id, :version_id,
            now() + interval '1 second')
""")
ADVANCE_WORKSPACE = text("""
    UPDATE workspaces
       SET latest_build = :number, latest_transition = :transition, latest_status = 'pending', latest_ended_at = NULL,
           next_action_at = NULL, claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,
           resume_build_id = NULL
     WHERE id = :workspace_id
""")

# People's builds come first, since people wait for them. Deletions come next, since they free capacity.
TAKE_DUE = text(f"""
    UPDATE workspace_builds b
       SET dispatches = b.dispatches + 1,
           next_dispatch_at =
               now() + least(CAST(:step AS interval) * power(2, least(b.dispatches, 10)), CAST(:max AS interval))
      FROM (SELECT d.id FROM workspace_builds d CROSS JOIN settings s
             WHERE d.status IN ('pending', 'running', 'canceling') AND d.next_dispatch_at <= now()
               AND NOT ((s.paused OR s.restore_found_at IS NOT NULL)
                        AND d.initiator_id = '{PREBUILDS_USER_ID}' AND d.status = 'pending')
             ORDER BY d.initiator_id = '{PREBUILDS_USER_ID}', d.transition <> 'delete', d.next_dispatch_at
             LIMIT :limit FOR UPDATE OF d SKIP LOCKED) AS due
     WHERE b.id = due.id RETURNING b.id
""")


@dataclass(frozen=True, slots=True)
class RecordedBuild:
    """A build that a transaction has recorded. The caller starts it after the commit."""

    id: UUID
    canceled: list[UUID] = field(default_factory=list)
    """Builds that make way for it. The caller cancels their workflows after the commit."""
    recorded_now: bool = True
    """False when the same build was recorded before."""


async def record_build(
    connection: AsyncConnection,
    workspace_id: UUID,
    transition: Transition,
    *,
    initiator_id: UUID | None = None,
    stage: Stage = Stage.NONE,
    anew: bool = False,
) -> RecordedBuild:
    """Record one more build of a workspace. It begins once the build that runs has ended. An unfinished build of the
    same transition is returned instead of a second one.

    A pending build of another transition is superseded, so that a release need not wait for a start that nobody has
    begun. A deletion also cancels a start that runs, and begins once that has ended in whatever way.

    Args:
        initiator_id: Who asks for it; None for the workspace's owner.
        anew: Record another build also when one of the same transition is unfinished: that one was for another owner.
    Raises:
        WorkspaceNotFound: The workspace is deleted.
    """
    row = (await connection.execute(LOCK_WORKSPACE, {"workspace_id": workspace_id})).one_or_none()
    if row is None:
        raise WorkspaceNotFound(f"no live workspace has the id {workspace_id}")
    unfinished = row.build_status in (BuildStatus.PENDING, BuildStatus.RUNNING)
    if unfinished and row.latest_transition == transition and not anew:
        return RecordedBuild(UUID(str(row.build_id)), recorded_now=False)
    superseded = {"workspace_id": workspace_id, "cause": f"superseded by a {transition}"}
    canceled = list(await connection.scalars(SUPERSEDE, superseded))
    if transition is Transition.DELETE:
        canceled += await connection.scalars(CANCEL_START, {"workspace_id": workspace_id})
    number = row.latest_build + 1
    build = {
        "build_id": build_id_of(workspace_id, number),
        "workspace_id": workspace_id,
        "number": number,
        "transition": transition,
        "stage": stage,
        "initiator_id": initiator_id or row.owner_id,
        "preset_id": row.preset_id,
        "version_id": row.template_version_id,
    }
    await keep_trace(connection)
    await connection.execute(RECORD, build)
    await connection.execute(ADVANCE_WORKSPACE, build)
    return RecordedBuild(build_id_of(workspace_id, number), canceled)


async def take_due_builds(engine: AsyncEngine) -> list[UUID]:
    """Take the unfinished builds that are due for a dispatch, at most `DISPATCH_BATCH_MAX`: their workflow may never
    have started, or may be gone. Each is due again later."""
    async with engine.begin() as connection:
        due = {"step": REDISPATCH_STEP, "max": REDISPATCH_MAX, "limit": DISPATCH_BATCH_MAX}
        return list(await connection.scalars(TAKE_DUE, due))
