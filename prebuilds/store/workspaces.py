"""Workspaces and their builds as people list, show, release and cancel them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.payloads import PREBUILDS_USER_ID, BuildStatus, Stage, Transition, parse_path
from prebuilds.planning.lifecycle import LatestBuild, NextAction, next_action
from prebuilds.store.build_end import COUNT_BAD_TRIES, SET_NEXT_ACTION
from prebuilds.store.builds import provisioning_queue, record_build, set_latest
from prebuilds.store.events import record_event
from prebuilds.store.pool import cancel_pending_creations
from prebuilds.views import CancelResult, EventRow, JobFilter, JobRow, WorkspaceDetails, WorkspaceRow

LIST_MAX = 10_000
"""Rows that one listing returns at most."""
EVENTS_SHOWN = 50

_WORKSPACES = """
    SELECT w.id, w.name, u.name AS owner, o.name AS organization, t.name AS template, w.preset_id, p.name AS preset,
           v.number AS version, w.latest_transition, w.latest_status, w.claimable_preset_id, w.owner_id, w.address,
           w.created_at, w.claimed_at, w.ttl, w.resources, w.host,
           EXISTS (SELECT FROM workspace_builds b WHERE b.workspace_id = w.id AND b.number = 1 AND b.stage = 'create')
               AS prebuilt
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN organizations o ON o.id = w.organization_id
      JOIN templates t ON t.id = w.template_id JOIN template_versions v ON v.id = w.template_version_id
      LEFT JOIN presets p ON p.id = w.preset_id
"""
LIST = text(
    f"""
    {_WORKSPACES}
     WHERE w.deleted_at IS NULL AND (CAST(:owner AS text) IS NULL OR u.name = :owner)
       AND (CAST(:preset AS text) IS NULL OR o.name || '/' || t.name || '/' || p.name = :preset
            OR w.preset_id::text = :preset)
       AND (NOT :prebuilt OR w.owner_id = '{PREBUILDS_USER_ID}')
     ORDER BY o.name, t.name, p.name, w.created_at, w.id LIMIT :limit
""".replace("w.preset_id::text", "CAST(w.preset_id AS text)")
)
SHOW = text(f"{_WORKSPACES} WHERE w.id = :id")
FIND = text("""
    SELECT w.id FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.name = :owner AND w.name = :name AND w.deleted_at IS NULL
""")

_JOBS = """
    SELECT b.id AS build_id, b.workspace_id, b.preset_id, b.transition, b.stage, b.status, u.name AS initiator,
           b.initiator_id, v.queue, w.host, b.created_at, b.started_at, b.completed_at, b.error, b.number
      FROM workspace_builds b JOIN users u ON u.id = b.initiator_id JOIN workspaces w ON w.id = b.workspace_id
      JOIN template_versions v ON v.id = b.template_version_id JOIN templates t ON t.id = v.template_id
      JOIN organizations o ON o.id = t.organization_id
"""
_JOB_FILTER = """
     WHERE (CAST(:initiator AS text) IS NULL OR u.name = :initiator)
       AND (cardinality(CAST(:status AS text[])) = 0 OR b.status = ANY(CAST(:status AS text[])))
       AND (CAST(:template AS text) IS NULL OR o.name || '/' || t.name = :template)
"""
LIST_JOBS = text(f"{_JOBS} {_JOB_FILTER} ORDER BY b.created_at DESC, b.id LIMIT :limit")
JOBS_OF = text(f"{_JOBS} WHERE b.workspace_id = :id ORDER BY b.number")
EVENTS_OF = text("""
    SELECT at, kind, actor, data FROM events WHERE workspace_id = :id ORDER BY id DESC LIMIT :limit
""")
USER_NAME = text("SELECT name FROM users WHERE id = :id")
CANCEL_PENDING = text("""
    UPDATE workspace_builds SET status = 'canceled', completed_at = now(), next_dispatch_at = NULL, error = :cause
     WHERE id = :id AND status = 'pending' RETURNING id
""")
CANCEL_RUNNING = text(
    "UPDATE workspace_builds SET status = 'canceling' WHERE id = :id AND status = 'running' RETURNING id"
)
LOCK_WORKSPACE = text("SELECT id FROM workspaces WHERE id = :id FOR NO KEY UPDATE")
TAKE_DUE_ACTIONS = text("""
    SELECT w.id, w.claimed_at, w.last_used_at, w.ttl, b.transition, b.stage, b.status, b.completed_at, b.initiator_id
      FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
     WHERE w.next_action_at <= now() AND w.deleted_at IS NULL
     ORDER BY w.next_action_at LIMIT 100 FOR NO KEY UPDATE OF w SKIP LOCKED
""")

STATUS_WORDS = {
    Transition.START: ("starting", "running"),
    Transition.STOP: ("stopping", "stopped"),
    Transition.DELETE: ("deleting", "deleted"),
}


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a cancellation changed, and whose workflows still have to be told."""

    result: CancelResult
    running: list[UUID]


async def list_workspaces(
    engine: AsyncEngine, *, owner: str | None = None, preset: str | None = None, prebuilt: bool = False
) -> list[WorkspaceRow]:
    """Live workspaces, by path and age. *preset* is an id or a path; *prebuilt* leaves only unclaimed ones."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            LIST, {"owner": owner, "preset": preset, "prebuilt": prebuilt, "limit": LIST_MAX}
        )
        return [WorkspaceRow(**_workspace(row)) for row in rows]


async def resolve_workspace(connection: AsyncConnection, reference: str) -> UUID:
    """The id of `owner/name` or of an id given as text.

    Raises:
        InvalidInput: Neither an id nor a path.
        WorkspaceNotFound: No live workspace of that name.
    """
    try:
        return UUID(reference)
    except ValueError:
        owner, name = parse_path(reference, 2, "workspace", "alice/alice-dev")
    found = await connection.scalar(FIND, {"owner": owner, "name": name})
    if found is None:
        raise WorkspaceNotFound(f"{owner} has no live workspace named {name}; see `prebuilds workspaces list`")
    return UUID(str(found))


async def user_name(engine: AsyncEngine, user_id: UUID) -> str | None:
    async with engine.connect() as connection:
        name: str | None = await connection.scalar(USER_NAME, {"id": user_id})
        return name


async def show_workspace(engine: AsyncEngine, reference: str) -> WorkspaceDetails:
    """One workspace, also a deleted one by its id, with its builds and newest events."""
    async with engine.connect() as connection:
        workspace_id = await resolve_workspace(connection, reference)
        row = (await connection.execute(SHOW, {"id": workspace_id})).one_or_none()
        if row is None:
            raise WorkspaceNotFound(f"no workspace has the id {reference}")
        builds = [_job(b) for b in await connection.execute(JOBS_OF, {"id": workspace_id})]
        events = await connection.execute(EVENTS_OF, {"id": workspace_id, "limit": EVENTS_SHOWN})
        return WorkspaceDetails(
            **_workspace(row),
            resources=row.resources,
            host=row.host,
            builds=builds,
            events=[EventRow(at=e.at, kind=e.kind, actor=e.actor, data=e.data) for e in events][::-1],
        )


async def release_workspace(engine: AsyncEngine, reference: str) -> tuple[UUID, UUID]:
    """Record the deletion of a workspace; asked again, it is the same build. Returns workspace and build id."""
    async with engine.begin() as connection:
        workspace_id = await resolve_workspace(connection, reference)
        build_id = await record_build(connection, workspace_id, Transition.DELETE)
        await record_event(connection, "released", "operator", workspace_id=workspace_id, build_id=build_id)
    return workspace_id, build_id


async def list_jobs(engine: AsyncEngine, wanted: JobFilter) -> list[JobRow]:
    """Builds as jobs, newest first."""
    async with engine.connect() as connection:
        return [_job(row) for row in await connection.execute(LIST_JOBS, _filter(wanted))]


async def cancel_jobs(engine: AsyncEngine, wanted: JobFilter, *, dry_run: bool = False) -> Cancellation:
    """Cancel builds: pending ones unless the filter's status says otherwise.

    A pending one ends here and now, with its workspace when that was never made. A running one is marked, and its
    workflow has to be cancelled by the caller.
    """
    chosen = wanted if wanted.status else wanted.model_copy(update={"status": [BuildStatus.PENDING]})
    async with engine.connect() as connection:
        jobs = (await connection.execute(LIST_JOBS, _filter(chosen))).all()
    if dry_run:
        possible = sum(job.status in (BuildStatus.PENDING, BuildStatus.RUNNING) for job in jobs)
        return Cancellation(CancelResult(canceled=possible, skipped=len(jobs) - possible), [])
    canceled, running = 0, []
    for job in jobs:  # one short transaction each: an operator's sweep must not hold claims up
        async with engine.begin() as connection:
            if await _cancel(connection, job):
                canceled += 1
                if job.status == BuildStatus.RUNNING:
                    running.append(job.build_id)
    return Cancellation(CancelResult(canceled=canceled, skipped=len(jobs) - canceled), running)


async def _cancel(connection: AsyncConnection, job: Row[tuple[object, ...]]) -> bool:
    await connection.execute(LOCK_WORKSPACE, {"id": job.workspace_id})
    if job.status == BuildStatus.RUNNING:
        done = await connection.scalar(CANCEL_RUNNING, {"id": job.build_id}) is not None
        status = BuildStatus.CANCELING
    elif job.status == BuildStatus.PENDING and job.number == 1 and job.stage == Stage.CREATE:
        done = bool(await cancel_pending_creations(connection, [job.workspace_id], cause="canceled by an operator"))
        status = BuildStatus.CANCELED
    elif job.status == BuildStatus.PENDING:
        done = (
            await connection.scalar(CANCEL_PENDING, {"id": job.build_id, "cause": "canceled by an operator"})
            is not None
        )
        status = BuildStatus.CANCELED
        if done:
            await _plan_next_action(connection, job)
    else:
        return False
    if done:
        await set_latest(connection, job.workspace_id, job.number, status)
        await record_event(
            connection,
            "job_canceled",
            "operator",
            preset_id=job.preset_id,
            workspace_id=job.workspace_id,
            build_id=job.build_id,
        )
    return done


async def _plan_next_action(connection: AsyncConnection, job: Row[tuple[object, ...]]) -> None:
    """A cancelled deletion is tried again; a cancelled claim build too."""
    tries = await connection.scalar(
        COUNT_BAD_TRIES, {"workspace_id": job.workspace_id, "transition": job.transition, "stage": job.stage}
    )
    now = await connection.scalar(text("SELECT now()"))
    assert isinstance(now, datetime)  # noqa: S101 - what now() returns
    latest = LatestBuild(Transition(job.transition), Stage(job.stage), BuildStatus.CANCELED, now, int(str(tries)))
    action = next_action(latest, claimed=False, last_used_at=None, ttl=None)
    await connection.execute(SET_NEXT_ACTION, {"workspace_id": job.workspace_id, "at": action.at if action else None})


async def take_due_actions(engine: AsyncEngine) -> list[UUID]:
    """Record the builds of workspaces whose `next_action_at` has passed; returns the builds, to start them."""
    recorded: list[UUID] = []
    async with engine.begin() as connection:
        for row in (await connection.execute(TAKE_DUE_ACTIONS)).all():
            action = await _due_action(connection, row)
            if action is None:
                await connection.execute(SET_NEXT_ACTION, {"workspace_id": row.id, "at": None})
                continue
            build_id = await record_build(
                connection, row.id, action.transition, stage=action.stage, initiator_id=row.initiator_id
            )
            await record_event(
                connection, "acted", "relay", workspace_id=row.id, build_id=build_id, data={"reason": action.reason}
            )
            recorded.append(build_id)
    return recorded


async def _due_action(connection: AsyncConnection, row: Row[tuple[object, ...]]) -> NextAction | None:
    tries = await connection.scalar(
        COUNT_BAD_TRIES, {"workspace_id": row.id, "transition": row.transition, "stage": row.stage}
    )
    latest = LatestBuild(
        Transition(row.transition), Stage(row.stage), BuildStatus(row.status), row.completed_at, int(str(tries))
    )
    return next_action(latest, claimed=row.claimed_at is not None, last_used_at=row.last_used_at, ttl=row.ttl)


def _filter(wanted: JobFilter) -> dict[str, Any]:
    return {
        "initiator": wanted.initiator,
        "status": [status.value for status in wanted.status],
        "template": wanted.template,
        "limit": LIST_MAX,
    }


def _workspace(row: Row[tuple[object, ...]]) -> dict[str, Any]:
    transition, status = Transition(row.latest_transition), BuildStatus(row.latest_status)
    busy, done = STATUS_WORDS[transition]
    words = {BuildStatus.SUCCEEDED: done, BuildStatus.FAILED: "failed", BuildStatus.CANCELED: "canceled"}
    owned = row.owner_id != PREBUILDS_USER_ID
    runs = transition is Transition.START and status is BuildStatus.SUCCEEDED
    ttl: timedelta | None = row.ttl
    return {
        "id": row.id,
        "name": row.name,
        "owner": row.owner,
        "organization": row.organization,
        "template": row.template,
        "preset_id": row.preset_id,
        "preset": row.preset,
        "version": row.version,
        "status": words.get(status, busy),
        "prebuilt": row.prebuilt,
        "ready": runs if owned else row.claimable_preset_id is not None,
        "address": row.address,
        "created_at": row.created_at,
        "claimed_at": row.claimed_at,
        "ttl_seconds": ttl.total_seconds() if ttl is not None else None,
    }


def _job(row: Row[tuple[object, ...]]) -> JobRow:
    return JobRow(
        build_id=row.build_id,
        workspace_id=row.workspace_id,
        preset_id=row.preset_id,
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
