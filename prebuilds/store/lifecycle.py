"""Operations of people on claimed workspaces: start, stop, retry a failed build, set ttl, schedule and lease.

A request for a state that the workspace has already is answered and records nothing. So a request that is sent twice
takes effect once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.autostart import parse_autostart
from prebuilds.store.actions import life_of, plan_next_action, read_lives, record_requested_build
from prebuilds.store.events import record_event
from prebuilds.store.leases import check_lease, set_lease
from prebuilds.store.steering import refuse_deletion, refuse_prebuild
from prebuilds.store.workspaces import lock_workspace, status_word
from prebuilds.views import WorkspaceChange, WorkspaceSettings
from prebuilds.vocabulary import TTL_MAX, BuildStatus, Stage, Transition

ONGOING = (BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.SUCCEEDED)
SET = text("""
    UPDATE workspaces
       SET ttl = CAST(:ttl AS interval), autostart_schedule = :schedule,
           next_start_at = CASE WHEN autostart_schedule IS NOT DISTINCT FROM :schedule THEN next_start_at END
     WHERE id = :id
""")
# An inspection after the latest start has found nothing that runs. One sighting is enough: a start of what runs after
# all changes nothing.
SEEN_VANISHED = text("""
    SELECT EXISTS (SELECT FROM inventory_sightings s JOIN workspaces w ON w.id = s.workspace_id
                    WHERE w.id = :id AND s.finding = 'vanished' AND s.first_seen_at > w.latest_ended_at)
""")


async def start_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record a start in the owner's name, also of one that was seen to run no more.

    It also hands the workspace over when no claim build has ever succeeded.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
    Raises:
        InvalidInput: The workspace is a prebuild or is being deleted.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    return await _request_transition(engine, reference, Transition.START, by)


async def stop_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record a stop in the owner's name.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
    Raises:
        InvalidInput: The workspace is a prebuild or is being deleted.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    return await _request_transition(engine, reference, Transition.STOP, by)


async def retry_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record the latest build again if it has failed or was cancelled. Only a deletion is retried for a prebuild.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
    Raises:
        InvalidInput: The workspace is a prebuild, and the build is no deletion.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    async with engine.begin() as connection:
        row = await _lock_and_read(connection, reference)
        life = life_of(row)
        if not life.latest.bad:
            return _change(row, changed=False)
        transition = life.latest.transition
        if transition is not Transition.DELETE:
            refuse_prebuild(row)
        stage = life.latest.stage
        return await _record_build(connection, row, transition, stage, ("retried", by), initiator_id=row.initiator_id)


async def set_workspace(
    engine: AsyncEngine,
    reference: str,
    by: str,
    *,
    ttl: timedelta | None = None,
    autostart: str | None = None,
    lease: timedelta | None = None,
) -> WorkspaceSettings:
    """Set a workspace's ttl, schedule or lease. An action that is due by the new values is taken at the relay's next
    sweep.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
        ttl: How long the workspace runs after a start; zero for no end, None to keep the current ttl.
        autostart: A cron expression for `next_start`; empty or `none` for no schedule, None to keep the current one.
        lease: How long the workspace is kept from now unless its lease is renewed; zero for no lease, None to keep the
            current lease and its end.
    Raises:
        InvalidInput: None of them is given, one is invalid, or the workspace is a prebuild or is being deleted.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    if ttl is None and autostart is None and lease is None:
        raise InvalidInput.field("ttl", "give at least one of ttl, autostart_schedule and lease_seconds")
    if ttl is not None and not timedelta(0) <= ttl <= TTL_MAX:
        raise InvalidInput.field("ttl", f"must be between 0 and {TTL_MAX.days}d")
    check_lease(lease, or_none=True)
    async with engine.begin() as connection:
        row = await _lock_and_read(connection, reference)
        refuse_prebuild(row)
        refuse_deletion(row)
        new_ttl = row.ttl if ttl is None else ttl or None
        schedule = row.autostart_schedule if autostart is None else parse_autostart(autostart, row.now)
        ends_none = lease is not None and not lease and row.lease is None
        changed = (new_ttl, schedule) != (row.ttl, row.autostart_schedule) or (lease is not None and not ends_none)
        if changed:
            await connection.execute(SET, {"id": row.id, "ttl": new_ttl, "schedule": schedule})
            now_set = {"ttl_seconds": new_ttl.total_seconds() if new_ttl else None, "autostart_schedule": schedule}
            if lease is not None:
                await set_lease(connection, row.id, lease)
                now_set["lease_seconds"] = lease.total_seconds() or None
            await plan_next_action(connection, row.id)
            await record_event(connection, "workspace_set", by, workspace_id=row.id, data=now_set)
            [row] = await read_lives(connection, [row.id])
        return WorkspaceSettings(
            workspace_id=row.id,
            workspace=f"{row.owner}/{row.name}",
            ttl_seconds=row.ttl.total_seconds() if row.ttl else None,
            autostart_schedule=row.autostart_schedule,
            next_start_at=row.next_start_at,
            next_action_at=row.next_action_at,
            lease_seconds=row.lease.total_seconds() if row.lease else None,
            lease_until=row.lease_until,
            changed=changed,
        )


async def _request_transition(engine: AsyncEngine, reference: str, transition: Transition, by: str) -> WorkspaceChange:
    """Record a build for *transition*, unless the workspace's latest build is such a build and has not failed."""
    async with engine.begin() as connection:
        row = await _lock_and_read(connection, reference)
        refuse_prebuild(row)
        refuse_deletion(row)
        if row.transition == transition and row.status in ONGOING and not await _has_ended(connection, row):
            return _change(row, changed=False)
        stage = life_of(row).start_stage if transition is Transition.START else Stage.NONE
        return await _record_build(connection, row, transition, stage, (f"{transition}_requested", by))


async def _has_ended(connection: AsyncConnection, row: Row[tuple[object, ...]]) -> bool:
    """Whether the workspace was started and nothing of it runs any more, as after its engine was restarted."""
    started = row.transition == Transition.START and row.status == BuildStatus.SUCCEEDED
    return started and bool(await connection.scalar(SEEN_VANISHED, {"id": row.id}))


async def _record_build(
    connection: AsyncConnection,
    row: Row[tuple[object, ...]],
    transition: Transition,
    stage: Stage,
    event: tuple[str, str],
    initiator_id: UUID | None = None,
) -> WorkspaceChange:
    recorded = await record_requested_build(connection, row, transition, stage=stage, initiator_id=initiator_id)
    kind, by = event
    data = {"transition": transition, "stage": stage}
    await record_event(connection, kind, by, workspace_id=row.id, build_id=recorded.id, data=data)
    [now] = await read_lives(connection, [row.id])
    return _change(now, changed=True, canceled=recorded.canceled)


async def _lock_and_read(connection: AsyncConnection, reference: str) -> Row[tuple[object, ...]]:
    workspace_id = await lock_workspace(connection, reference)
    [row] = await read_lives(connection, [workspace_id])
    return row


def _change(row: Row[tuple[object, ...]], *, changed: bool, canceled: Sequence[UUID] = ()) -> WorkspaceChange:
    transition = Transition(row.transition)
    return WorkspaceChange(
        workspace_id=row.id,
        workspace=f"{row.owner}/{row.name}",
        transition=transition,
        status=status_word(transition, BuildStatus(row.status)),
        build_id=row.build_id,
        changed=changed,
        canceled_build_ids=list(canceled),
    )
