"""Builds as they are recorded: their facts, and the locks under which they change.

Whatever changes a build locks its workspace's row first. With this one order of locks, a claim, a deletion, a build's
end and an operator's cancellation never deadlock. A build's life is in the modules beside this one: `build_record`
records it, `build_begin` begins it, `build_end` ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.vocabulary import PEOPLE_SUFFIX, PREBUILDS_USER_ID, BuildStatus, Stage, Transition

_BUILD = """
    SELECT b.id, b.workspace_id, b.number, b.transition, b.stage, b.status, b.error, b.preset_id,
           b.initiator_id, i.name AS initiator, b.created_at, b.traceparent, w.name, w.owner_id, w.latest_build,
           b.attempt, w.claimed_at, w.previous_owners, w.host, w.lease, u.name AS owner, o.name AS organization,
           t.name AS template, t.build_timeout, t.ready_timeout, p.name AS preset, p.expire_after, v.provisioner,
           v.queue, v.source, v.files_digest, p.claim_parameters AS claim_parameter_names,
           s.deployment_id, s.epoch, c.id AS claim_id
      FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id JOIN users u ON u.id = w.owner_id
      JOIN template_versions v ON v.id = b.template_version_id JOIN templates t ON t.id = v.template_id
      JOIN organizations o ON o.id = t.organization_id JOIN users i ON i.id = b.initiator_id
      LEFT JOIN presets p ON p.id = b.preset_id LEFT JOIN claims c ON c.workspace_id = w.id CROSS JOIN settings s
"""
# Lock first, read in a second statement: after a lock wait, READ COMMITTED re-reads only the locked row. Rows joined
# with it would be older than the wait.
LOCK_WORKSPACE_OF = text("""
    SELECT FROM workspaces WHERE id = (SELECT workspace_id FROM workspace_builds WHERE id = :build_id)
       FOR NO KEY UPDATE
""")
READ_BUILD = text(f"{_BUILD} WHERE b.id = :build_id")
READ_BUILDS = text(f"{_BUILD} WHERE b.id = ANY(CAST(:ids AS uuid[])) ORDER BY b.created_at, b.id")
SET_LATEST_STATUS = text("""
    UPDATE workspaces
       SET latest_status = :status, latest_ended_at = CASE WHEN :ended THEN now() END
     WHERE id = :workspace_id AND latest_build = :number
""")


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """One recorded build, with all that starting, running and measuring it needs."""

    id: UUID
    workspace_id: UUID
    number: int
    transition: Transition
    stage: Stage
    status: BuildStatus
    error: str | None
    preset_id: UUID | None
    pool: bool
    """Whether the prebuilds user initiated it: then nobody waits for it."""
    provisioner: str
    queue: str
    """The task queue of its provisioning (`provisioning_queue`)."""
    host: str | None
    """The host that made the workspace; None when any host can serve it."""
    organization: str
    template: str
    preset: str | None
    owner: str
    name: str
    """What the workspace is called now."""
    initiator_id: UUID
    initiator: str
    build_timeout: timedelta
    created_at: datetime
    attempt: int
    """How often the build was begun. Only the latest attempt may save a state or end the build."""
    traceparent: str | None = None
    """The trace in which it was recorded; None when it was recorded in none."""


def provisioning_queue(queue: str, *, pool: bool, host: str | None) -> str:
    """The task queue of a build's provisioning.

    Args:
        queue: The template's.
        pool: Whether the build is the pool's. People's builds have a queue of their own beside it, so that many pool
            builds at once delay nobody.
        host: The host that has the workspace, which alone can serve it; None for any host.
    """
    return f"{queue}{'' if pool else PEOPLE_SUFFIX}{f'@{host}' if host else ''}"


async def read_builds(engine: AsyncEngine, ids: Sequence[UUID]) -> list[BuildFacts]:
    """The builds of *ids* that exist, oldest first."""
    async with engine.connect() as connection:
        return [facts_of(row) for row in await connection.execute(READ_BUILDS, {"ids": list(ids)})]


async def lock_build(connection: AsyncConnection, build_id: UUID) -> Row[tuple[object, ...]]:
    """Lock the row of a build's workspace, then read the build.

    Returns:
        A row of `READ_BUILD`, for `facts_of`.
    Raises:
        WorkspaceNotFound: No build has this id.
    """
    await connection.execute(LOCK_WORKSPACE_OF, {"build_id": build_id})
    row = (await connection.execute(READ_BUILD, {"build_id": build_id})).one_or_none()
    if row is None:
        message = f"no build has the id {build_id}"
        raise WorkspaceNotFound(message, {"build_id": str(build_id)}, remedy="see `prebuilds jobs list`")
    return row


async def set_latest(connection: AsyncConnection, workspace_id: UUID, number: int, status: BuildStatus) -> None:
    """Copy a build's new status to its workspace's row, if no later build was recorded."""
    latest = {"workspace_id": workspace_id, "number": number, "status": status, "ended": status.ended}
    await connection.execute(SET_LATEST_STATUS, latest)


def facts_of(row: Row[tuple[object, ...]]) -> BuildFacts:
    """The facts in a row of `READ_BUILD` or `READ_BUILDS`."""
    pool = row.initiator_id == PREBUILDS_USER_ID
    return BuildFacts(
        id=row.id,
        workspace_id=row.workspace_id,
        number=row.number,
        transition=Transition(row.transition),
        stage=Stage(row.stage),
        status=BuildStatus(row.status),
        error=row.error,
        preset_id=row.preset_id,
        pool=pool,
        provisioner=row.provisioner,
        queue=provisioning_queue(row.queue, pool=pool, host=row.host),
        host=row.host,
        organization=row.organization,
        template=row.template,
        preset=row.preset,
        owner=row.owner,
        name=row.name,
        initiator_id=row.initiator_id,
        initiator=row.initiator,
        build_timeout=row.build_timeout,
        created_at=row.created_at,
        attempt=row.attempt,
        traceparent=row.traceparent,
    )
