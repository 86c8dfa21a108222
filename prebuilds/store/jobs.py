"""Builds as jobs: operators list them and cancel them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.actions import plan_next_action
from prebuilds.store.builds import provisioning_queue, set_latest
from prebuilds.store.events import record_event, record_for_builds
from prebuilds.store.job_selection import JOBS, select_jobs
from prebuilds.store.paging import cursor, read_cursor
from prebuilds.store.pool import cancel_pending_creations
from prebuilds.store.tables import UNFINISHED
from prebuilds.store.templates import find_templates_ever
from prebuilds.store.users import check_initiator
from prebuilds.views import CancelResult, JobFilter, JobRow
from prebuilds.views.pools import BuildCount
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Stage

CREATIONS_AT_ONCE = 100
"""Pending creations that end in one transaction. Claims do not wait for their rows, since none can be claimed yet."""
LIST_MAX = 10_000
"""The most rows that one call returns."""
CANCELED_AT_ONCE = 500
"""The builds in one batch of a cancellation."""

UNFINISHED_MAX = 50
"""The most builds that `list_unfinished` returns: more than a person looks at."""

_JOBS = JOBS.format(builds="workspace_builds")
JOBS_OF = text(f"{_JOBS} WHERE b.workspace_id = :id ORDER BY b.number")
# The statuses stand in the statement, so that a partial index answers it however many builds have ended.
LIST_UNFINISHED = text(f"{_JOBS} WHERE b.{UNFINISHED} ORDER BY b.created_at, b.id LIMIT {UNFINISHED_MAX}")
COUNT_UNFINISHED = text(f"""
    SELECT o.name AS organization, b.status, count(*) AS builds
      FROM workspace_builds b JOIN template_versions v ON v.id = b.template_version_id
      JOIN templates t ON t.id = v.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE b.{UNFINISHED} GROUP BY 1, 2 ORDER BY 1, 2
""")
CANCEL_PENDING = text("""
    UPDATE workspace_builds SET status = 'canceled', completed_at = now(), next_dispatch_at = NULL, error = :cause
     WHERE id = :id AND status = 'pending' RETURNING id
""")
# The build is due for a dispatch soon, so that the relay repeats a cancellation that did not reach the workflow.
CANCEL_RUNNING = text("""
    UPDATE workspace_builds SET status = 'canceling', dispatches = 0, next_dispatch_at = now() + interval '1 second'
     WHERE id = :id AND status = 'running' RETURNING id
""")
LOCK_WORKSPACE = text("SELECT id FROM workspaces WHERE id = :id FOR NO KEY UPDATE")


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The result of a cancellation, and the builds whose workflows the caller has to cancel."""

    result: CancelResult
    build_ids: list[UUID]


async def list_jobs(
    engine: AsyncEngine,
    wanted: JobFilter,
    *,
    reach: Reach = EVERYWHERE,
    limit: int = LIST_MAX,
    after: str | None = None,
) -> list[JobRow]:
    """List builds as jobs, newest first.

    Args:
        reach: List only builds of workspaces within it.
        limit: The most jobs that are returned.
        after: A cursor from `job_cursor`; None to begin with the newest job.
    Raises:
        InitiatorNotFound, TemplateNotFound: The filter names one that never existed.
        InvalidInput: *after* is not such a cursor.
    """
    async with engine.connect() as connection:
        return [_job(row) for row in await _find(connection, wanted, reach, limit, after)]


async def list_unfinished(connection: AsyncConnection) -> list[JobRow]:
    """List the builds that have not ended, oldest first; at most `UNFINISHED_MAX`."""
    return [_job(row) for row in await connection.execute(LIST_UNFINISHED)]


async def count_unfinished(connection: AsyncConnection) -> list[BuildCount]:
    """Count the builds that have not ended, by organization and status."""
    rows = await connection.execute(COUNT_UNFINISHED)
    return [BuildCount(organization=row.organization, status=row.status, builds=row.builds) for row in rows]


def job_cursor(job: JobRow | Row[tuple[object, ...]]) -> str:
    """Return the cursor of the jobs that follow *job*."""
    return cursor(job.created_at.isoformat(), job.build_id)


async def cancel_jobs(
    engine: AsyncEngine,
    wanted: JobFilter,
    by: str,
    *,
    reach: Reach = EVERYWHERE,
    dry_run: bool = False,
    on_batch: Callable[[Sequence[UUID]], None] | None = None,
) -> Cancellation:
    """Cancel all builds that match a filter: pending ones, unless the filter has other statuses.

    A pending build ends at once, together with its workspace when that was never made. A running build is marked as
    canceling. The caller cancels their workflows.

    Args:
        by: Who cancels them, for the events.
        reach: Cancel only builds of workspaces within it.
        dry_run: Count, and change nothing.
        on_batch: Called with the builds of each batch after their commits; None for no call.
    Raises:
        InitiatorNotFound, TemplateNotFound: The filter names one that never existed; nothing was changed.
    """
    chosen = wanted if wanted.status else wanted.model_copy(update={"status": [BuildStatus.PENDING]})
    canceled: list[UUID] = []
    found = possible = 0
    after: str | None = None
    while True:  # canceled builds leave the list; the cursor still holds, since it is a position in the order
        async with engine.connect() as connection:
            jobs = await _find(connection, chosen, reach, CANCELED_AT_ONCE, after)
        found += len(jobs)
        possible += sum(job.status in (BuildStatus.PENDING, BuildStatus.RUNNING) for job in jobs)
        if not dry_run:
            creations = [job for job in jobs if _is_pending_creation(job)]
            batch: list[UUID] = []
            for start in range(0, len(creations), CREATIONS_AT_ONCE):
                async with engine.begin() as connection:
                    batch += await _cancel_creations(connection, creations[start : start + CREATIONS_AT_ONCE], by)
            for job in jobs:  # one short transaction each, so that claims are not blocked for long
                if not _is_pending_creation(job):
                    async with engine.begin() as connection:
                        if await _cancel(connection, job, by):
                            batch.append(job.build_id)
            canceled += batch
            if on_batch is not None and batch:
                on_batch(batch)
        if len(jobs) < CANCELED_AT_ONCE:
            break
        after = job_cursor(jobs[-1])
    done = possible if dry_run else len(canceled)
    return Cancellation(CancelResult(canceled=done, skipped=found - done), canceled)


async def jobs_of(connection: AsyncConnection, workspace_id: UUID) -> list[JobRow]:
    """List the builds of a workspace, oldest first."""
    return [_job(row) for row in await connection.execute(JOBS_OF, {"id": workspace_id})]


def _is_pending_creation(job: Row[tuple[object, ...]]) -> bool:
    return (job.status, job.number, job.stage) == (BuildStatus.PENDING, 1, Stage.CREATE)


async def _cancel_creations(
    connection: AsyncConnection, jobs: Sequence[Row[tuple[object, ...]]], by: str
) -> list[UUID]:
    """End pending creations with their workspaces; returns the builds that were pending still."""
    ended = set(
        await cancel_pending_creations(connection, [job.workspace_id for job in jobs], cause="canceled by an operator")
    )
    done = [job for job in jobs if job.workspace_id in ended]
    await record_for_builds(connection, "job_canceled", by, done)
    return [job.build_id for job in done]


async def _cancel(connection: AsyncConnection, job: Row[tuple[object, ...]], by: str) -> bool:
    await connection.execute(LOCK_WORKSPACE, {"id": job.workspace_id})
    if job.status == BuildStatus.RUNNING:
        done = await connection.scalar(CANCEL_RUNNING, {"id": job.build_id}) is not None
        status = BuildStatus.CANCELING
    elif job.status == BuildStatus.PENDING:
        done = (
            await connection.scalar(CANCEL_PENDING, {"id": job.build_id, "cause": "canceled by an operator"})
            is not None
        )
        status = BuildStatus.CANCELED
    else:
        return False
    if done:
        await set_latest(connection, job.workspace_id, job.number, status)
        await plan_next_action(connection, job.workspace_id)  # a canceled deletion or hand-over is retried
        await record_event(
            connection,
            "job_canceled",
            by,
            preset_id=job.preset_id,
            workspace_id=job.workspace_id,
            build_id=job.build_id,
        )
    return done


async def _find(
    connection: AsyncConnection, wanted: JobFilter, reach: Reach, limit: int, after: str | None
) -> Sequence[Row[tuple[object, ...]]]:
    if wanted.initiator is not None:
        await check_initiator(connection, wanted.initiator)
    templates = None
    if wanted.template is not None:
        templates = [template.id for template in await find_templates_ever(connection, wanted.template, reach)]
    statement, values = select_jobs(
        wanted, templates, reach, limit, read_cursor(after, datetime, UUID) if after is not None else None
    )
    return (await connection.execute(text(f"{statement} ORDER BY b.created_at DESC, b.id"), values)).all()


def _job(row: Row[tuple[object, ...]]) -> JobRow:
    return JobRow(
        build_id=row.build_id,
        workspace_id=row.workspace_id,
        workspace=row.workspace,
        preset_id=row.preset_id,
        preset=row.preset,
        transition=row.transition,
        stage=row.stage,
        status=row.status,
        initiator=row.initiator,
        queue=provisioning_queue(row.queue, pool=row.initiator_id == PREBUILDS_USER_ID, host=row.host),
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        error=row.error,
    )
