"""Workspaces: listed, shown, locked and released."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import OwnerNotFound, WorkspaceNotFound
from prebuilds.payloads import parse_workspace_path
from prebuilds.payloads.not_found import no_workspace
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.build_record import RecordedBuild, record_build
from prebuilds.store.events import record_event
from prebuilds.store.jobs import LIST_MAX, jobs_of
from prebuilds.store.paging import cursor, read_cursor
from prebuilds.store.presets import find_presets_ever
from prebuilds.store.users import check_owner
from prebuilds.store.workspace_selection import WORKSPACES, select_workspaces
from prebuilds.views import EventRow, WorkspaceDetails, WorkspaceRow
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Transition
from prebuilds.vocabulary.owners import owner_key

EVENTS_SHOWN = 50

SHOW = text(f"{WORKSPACES.format(workspaces='workspaces')} WHERE w.id = :id")
FIND = text("""
    SELECT w.id FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.key = :owner AND w.name = :name AND w.deleted_at IS NULL
""")
EVENTS_OF = text("""
    SELECT at, kind, actor, data FROM events WHERE workspace_id = :id ORDER BY id DESC LIMIT :limit
""")
RELEASED = text("""
    SELECT u.name || '/' || w.name AS path, w.latest_transition = 'delete' AS released,
           (SELECT min(created_at) FROM workspace_builds WHERE workspace_id = w.id AND transition = 'delete') AS at
      FROM workspaces w JOIN users u ON u.id = w.owner_id WHERE w.id = :id
""")
USER_NAME = text("SELECT name FROM users WHERE id = :id")
# Lock first, read the builds in a second statement: after a lock wait, joined rows are as old as the statement.
LOCK_WORKSPACE = text("SELECT id FROM workspaces WHERE id = :id AND deleted_at IS NULL FOR NO KEY UPDATE")

QUARANTINED, ABANDONED = "quarantined", "abandoned"
STATUS_WORDS = {
    Transition.START: ("starting", "running"),
    Transition.STOP: ("stopping", "stopped"),
    Transition.PAUSE: ("pausing", "paused"),
    Transition.DELETE: ("deleting", "deleted"),
}


def workspace_cursor(row: WorkspaceRow) -> str:
    """Return the cursor of the workspaces that follow *row*."""
    return cursor(row.organization, row.template, row.preset or "", row.created_at.isoformat(), row.id)


async def list_workspaces(
    engine: AsyncEngine,
    *,
    owner: str | None = None,
    preset: str | None = None,
    prebuilt: bool = False,
    reach: Reach = EVERYWHERE,
    limit: int = LIST_MAX,
    after: str | None = None,
) -> list[WorkspaceRow]:
    """List live workspaces, ordered by their preset's path and by age.

    Args:
        owner: The owner's name; None for every owner.
        preset: An id, or a path that means every version's preset; None for every preset.
        prebuilt: List only unclaimed workspaces.
        reach: List only workspaces within it.
        limit: The most workspaces that are returned.
        after: A cursor from `workspace_cursor`; None to begin with the first workspace.
    Raises:
        OwnerNotFound: There never was such an owner. Without workspaces of all people in reach, the list is empty.
        PresetNotFound: There never was such a preset within reach.
        InvalidInput: *after* is not such a cursor.
    """
    passed = read_cursor(after, str, str, str, datetime, UUID) if after is not None else None
    async with engine.connect() as connection:
        presets = None if preset is None else [p.id for p in await find_presets_ever(connection, preset, reach)]
        if owner is not None:
            try:
                await check_owner(connection, owner)
            except OwnerNotFound:
                if reach.has_all_people:
                    raise
                return []  # the same answer as for an owner whose workspaces are out of reach
        statement, values = select_workspaces(owner, presets, prebuilt, reach, limit, passed)
        rows = await connection.execute(text(statement), values)
        return [WorkspaceRow(**_workspace(row)) for row in rows]


async def resolve_workspace(connection: AsyncConnection, reference: str) -> UUID:
    """Return the id of a workspace that is given as `owner/name` or as an id. An id is not looked up.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: No live workspace has that name.
    """
    try:
        return UUID(reference)
    except ValueError:
        owner, name = parse_workspace_path(reference)
    found = await connection.scalar(FIND, {"owner": owner_key(owner), "name": name})
    if found is None:
        raise no_workspace(reference)
    return UUID(str(found))


async def lock_workspace(connection: AsyncConnection, reference: str) -> UUID:
    """Lock a live workspace's row until the transaction ends, and return its id.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: No live workspace has that name or id.
    """
    workspace_id = await resolve_workspace(connection, reference)
    if await connection.scalar(LOCK_WORKSPACE, {"id": workspace_id}) is None:
        raise WorkspaceNotFound(
            f"no live workspace has the id {workspace_id}", remedy="see `prebuilds workspaces list`"
        )
    await resolve_workspace(connection, reference)  # a claim during the lock wait has given it another path
    return workspace_id


async def user_name(engine: AsyncEngine, user_id: UUID) -> str | None:
    """Return a user's name; None when no user has the id."""
    async with engine.connect() as connection:
        name: str | None = await connection.scalar(USER_NAME, {"id": user_id})
        return name


async def show_workspace(engine: AsyncEngine, reference: str) -> WorkspaceDetails:
    """Return a workspace with its builds and newest events. A deleted one is found by its id.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: No workspace has the id, or no live workspace has the name.
    """
    async with engine.connect() as connection:
        workspace_id = await resolve_workspace(connection, reference)
        row = (await connection.execute(SHOW, {"id": workspace_id})).one_or_none()
        if row is None:
            raise no_workspace(reference)
        events = await connection.execute(EVENTS_OF, {"id": workspace_id, "limit": EVENTS_SHOWN})
        return WorkspaceDetails(
            **_workspace(row),
            resources=row.resources,
            host=row.host,
            autostart_schedule=row.autostart_schedule,
            next_start_at=row.next_start_at,
            next_action_at=row.next_action_at,
            lease_seconds=row.lease.total_seconds() if row.lease is not None else None,
            lease_until=row.lease_until,
            quarantine_reason=row.quarantine_reason,
            builds=await jobs_of(connection, workspace_id),
            events=[EventRow(at=e.at, kind=e.kind, actor=e.actor, data=e.data) for e in events][::-1],
            warnings=[
                *(["vanished"] if row.vanished else []),
                *([QUARANTINED] if row.quarantined_at is not None else []),
            ],
        )


async def release_workspace(engine: AsyncEngine, reference: str, by: str) -> tuple[UUID, RecordedBuild]:
    """Record the deletion of a workspace. A repeated request gets the same build. A running start is canceled.

    Args:
        by: Who asks, for the event.
    Returns:
        The workspace's id, and the recorded deletion.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: No live workspace has that name or id.
    """
    async with engine.begin() as connection:
        workspace_id = await lock_workspace(connection, reference)
        recorded = await record_release(connection, workspace_id, by)
    return workspace_id, recorded


async def record_release(connection: AsyncConnection, workspace_id: UUID, by: str) -> RecordedBuild:
    """Record the deletion of a workspace whose row is locked by the caller's transaction."""
    recorded = await record_build(connection, workspace_id, Transition.DELETE)
    if recorded.recorded_now:
        await record_event(connection, "released", by, workspace_id=workspace_id, build_id=recorded.id)
    return recorded


async def check_not_released(engine: AsyncEngine, workspace_id: UUID) -> None:
    """Check that a workspace's deletion is not recorded, before its address is given out late.

    Raises:
        WorkspaceNotFound: It was released; the message has the time and the remedy. Or it was released so long ago
            that its row is removed.
    """
    async with engine.connect() as connection:
        released = (await connection.execute(RELEASED, {"id": workspace_id})).one_or_none()
    if released is None:
        long_ago = f"workspace {workspace_id} is gone, released long ago"
        raise WorkspaceNotFound(
            long_ago, {"workspace_id": str(workspace_id)}, remedy="claim another with a new claim id"
        )
    if released.released:
        at = released.at.astimezone(UTC).isoformat(timespec="seconds")
        details = {"workspace_id": str(workspace_id), "released_at": at}
        raise WorkspaceNotFound(
            f"{released.path} is gone, released at {at}", details, remedy="claim another with a new claim id"
        )


def status_word(transition: Transition, status: BuildStatus) -> str:
    """Return the status of a workspace by its latest build's transition and status."""
    busy, done = STATUS_WORDS[transition]
    words = {BuildStatus.SUCCEEDED: done, BuildStatus.FAILED: "failed", BuildStatus.CANCELED: "canceled"}
    return words.get(status, busy)


def status_in_words(row: Row[tuple[object, ...]]) -> str:
    """Return a workspace's status: what follows from its latest build, unless the workspace is quarantined."""
    transition, status = Transition(row.latest_transition), BuildStatus(row.latest_status)
    gone = transition is Transition.DELETE and status is BuildStatus.SUCCEEDED
    aside = row.quarantined_at is not None and status.ended and not gone
    return QUARANTINED if aside else status_word(transition, status)


def _workspace(row: Row[tuple[object, ...]]) -> dict[str, Any]:
    transition, status = Transition(row.latest_transition), BuildStatus(row.latest_status)
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
        "status": ABANDONED if row.abandoned_at is not None else status_in_words(row),
        "prebuilt": row.prebuilt,
        "ready": runs and not row.vanished if owned else row.claimable_preset_id is not None,
        "address": row.address,
        "created_at": row.created_at,
        "claimed_at": row.claimed_at,
        "ttl_seconds": ttl.total_seconds() if ttl is not None else None,
    }
